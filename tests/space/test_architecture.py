from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.codec import decode
from tests.strategies import architectures


@given(architectures())
def test_residuals_connect(architecture: Architecture) -> None:
    residuals = architecture.residuals()
    assert len(residuals) == architecture.depth
    assert residuals[0].in_channels == architecture.base_channels
    for before, after in pairwise(residuals):
        assert after.in_channels == before.out_channels
        assert (after.stride == 2) == (after.stage != before.stage)
    assert residuals[0].stride == 1
    expected = architecture.base_channels * architecture.block.expansion * 2**architecture.doublings
    assert residuals[-1].out_channels == expected == architecture.features()[-1].channels


@given(architectures())
def test_features_are_stage_outputs(architecture: Architecture) -> None:
    for index, feature in enumerate(architecture.features()):
        assert feature.channels == architecture.stage_residuals(index)[-1].out_channels
        assert feature.stride == 4 * 2**index


def test_resnext_inner_width() -> None:
    assert [Block("resnext", 32, 4).inner_width(planes) for planes in (64, 128, 512)] == [128, 256, 1024]


def test_serial_or_not() -> None:
    assert decode("r_11-21").is_serial
    assert not decode("r_11-21_0-1").is_serial


@pytest.mark.parametrize(
    "make",
    [
        lambda: Stage(()),
        lambda: Stage((True,), 4),
        lambda: Stage((True,), -1),
        lambda: Stage((True,), 0, True),
        lambda: Block("basic", 2),
        lambda: Block("resnext", 0, 4),
        lambda: Architecture(Block("basic"), 64, False, ()),
        lambda: Architecture(Block("basic"), 15, False, (Stage((True,)),)),
    ],
)
def test_nonsense_cannot_be_built(make) -> None:
    with pytest.raises(ValueError):
        make()
