from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spnas_hw.cost.composition import cost, workloads
from spnas_hw.cost.pricer import Pricer
from spnas_hw.errors import MissingWorkload
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.detector import Detector
from tests.strategies import architectures

DETECTOR = Detector(("pedestrian", "rider"), neck_channels=32)
RETINANET = Detector(("pedestrian", "rider"), neck_channels=32, type="retinanet")


def a_table(
    architecture: Architecture, size: tuple[int, int], detector: Detector = DETECTOR
) -> dict[str, float]:
    keys = dict.fromkeys(load.key for load in workloads(architecture, detector, size))
    return {key: 0.25 + index / 8 for index, key in enumerate(keys)}


@settings(max_examples=200, deadline=None)
@given(
    architectures(),
    st.sampled_from([(96, 160), (192, 384), (97, 161)]),
    st.sampled_from(["fp32", "fp16"]),
    st.sampled_from([DETECTOR, RETINANET]),
)
def test_it_is_equal_to_cost(
    architecture: Architecture, size: tuple[int, int], precision: str, detector: Detector
) -> None:
    assume(len(architecture.stages) > detector.first_stage)
    table = a_table(architecture, size, detector)
    found = Pricer(detector, size, table, precision)(architecture)
    expected = cost(architecture, detector, size, table, precision)
    assert found.latency_ms == pytest.approx(expected.latency_ms, rel=1e-12)
    assert (found.memory_mb, found.macs, found.params) == (expected.memory_mb, expected.macs, expected.params)
    assert (found.depth, found.stages) == (architecture.depth, len(architecture.stages))
    assert Pricer(detector, size, None, precision)(architecture).latency_ms is None


@settings(max_examples=30, deadline=None)
@given(architectures(), st.data())
def test_what_the_table_lacks_is_named(architecture: Architecture, data: st.DataObject) -> None:
    table = a_table(architecture, (96, 160))
    gone = data.draw(st.sampled_from(sorted(table)))
    price = Pricer(DETECTOR, (96, 160), {key: ms for key, ms in table.items() if key != gone})
    with pytest.raises(MissingWorkload) as caught:
        price(architecture)
    assert caught.value.keys == (gone,)


def test_one_pricer_serves_many() -> None:
    """What is remembered of one network must not colour the next."""
    price = Pricer(DETECTOR, (96, 160), None)

    @settings(max_examples=100, deadline=None)
    @given(architectures(base_channels=(16, 64)))
    def run(architecture: Architecture) -> None:
        assert price(architecture) == cost(architecture, DETECTOR, (96, 160), None)

    run()
