from __future__ import annotations

import numpy as np
import pytest

from spnas_hw.errors import SpaceExhausted
from spnas_hw.space.architecture import Block
from spnas_hw.space.codec import decode
from spnas_hw.space.search_space import SearchSpace

SPACE = SearchSpace((Block("bottleneck"),), stages=(4, 6), depth=(8, 60), doublings=(3, 3))


def test_resnet50_is_inside() -> None:
    assert SPACE.violations(decode("r_111-2111-211111-211")) == ()


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("r_11-21-2111", "stages is 3"),
        ("r_1-2-2-2", "depth is 4"),
        ("r_111-111-111-111", "doublings is 0"),
        ("b_111-2111-211111-211", "block basic"),
        ("r32_111-2111-211111-211", "base_channels is 32"),
        ("rd_111-2111-211111-211", "deep_stem is True"),
    ],
)
def test_violations_are_named_with_the_value(code: str, word: str) -> None:
    found = SPACE.violations(decode(code))
    assert any(word in violation for violation in found)


def test_samples_are_inside_and_reproducible() -> None:
    first = [SPACE.sample(np.random.default_rng(3)) for _ in range(3)]
    assert first[0] == first[1] == first[2]
    rng = np.random.default_rng(0)
    drawn = [SPACE.sample(rng) for _ in range(300)]
    assert all(SPACE.violations(architecture) == () for architecture in drawn)
    assert {len(architecture.stages) for architecture in drawn} == {4, 5, 6}
    assert len(set(drawn)) > 290


def test_an_impossible_draw_ends() -> None:
    space = SearchSpace((Block("basic"),), stages=(6, 6), depth=(1, 6), doublings=(6, 6))
    assert space.sample(np.random.default_rng(0)).depth == 6
    hopeless = SearchSpace((Block("basic"),), stages=(1, 4), depth=(3, 3), doublings=(3, 3))
    object.__setattr__(hopeless, "stages", (4, 4))
    with pytest.raises(SpaceExhausted):
        hopeless.sample(np.random.default_rng(0))


@pytest.mark.parametrize(
    "bounds",
    [
        {"stages": (5, 4)},
        {"stages": (0, 4)},
        {"depth": (1, 3), "stages": (4, 6)},
        {"doublings": (9, 9), "depth": (8, 8)},
    ],
)
def test_empty_bounds_are_refused(bounds: dict) -> None:
    with pytest.raises(ValueError):
        SearchSpace((Block("basic"),), **bounds)


def test_repeated_blocks_are_refused() -> None:
    with pytest.raises(ValueError):
        SearchSpace((Block("basic"), Block("basic")))
