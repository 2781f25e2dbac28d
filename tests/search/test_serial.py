from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from spnas_hw.errors import SpaceExhausted
from spnas_hw.search.serial import SerialSearcher, SerialSettings
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.search_space import SearchSpace
from tests.search.contract import SearcherContract
from tests.search.trials import trial

SPACE = SearchSpace((Block("basic"), Block("bottleneck")), stages=(4, 6), depth=(8, 20), doublings=(3, 3))
START = decode("b_11-21-21-21")


def searcher(objections=lambda architecture: (), **settings) -> SerialSearcher:
    return SerialSearcher(START, SPACE, SerialSettings(max_sample=10, **settings), objections)


class TestSerialSearcher(SearcherContract):
    def make(self, objections):
        return searcher(objections)

    space = SPACE


def operators(count: int, **settings) -> Counter[str]:
    """The single operators that `count` proposals of one mutation consist of."""
    this = searcher(num_mutate=1, **settings)
    this.tell(trial(0, encode(decode("b_111-211-211-211")), 0.3))
    rng = np.random.default_rng(0)
    return Counter(this.ask(rng).operator for _ in range(count))


def test_probabilities_mean_what_they_say() -> None:
    """In the ancestor they were the probabilities of not acting."""
    found = operators(2000, expand_prob=0.5, add_stage_prob=0.2, change_block_prob=0.1)
    for operator, probability in (("expand", 0.5), ("add_stage", 0.2), ("change_block", 0.1), ("swap", 0.2)):
        assert found[operator] / 2000 == pytest.approx(probability, abs=0.04)


def test_certain_and_impossible_operators() -> None:
    assert set(operators(50, expand_prob=1.0, add_stage_prob=0.0)) == {"expand"}
    assert "expand" not in operators(50, expand_prob=0.0, add_stage_prob=0.5)


def test_better_parents_are_likelier() -> None:
    this = searcher(num_mutate=1, expand_prob=1.0, add_stage_prob=0.0, max_optimal=3)
    codes = ["b_11-21-21-21", "b_111-21-21-21", "b_11-211-21-21", "b_11-21-211-21"]
    for index, (code, mean_ap) in enumerate(zip(codes, (0.1, 0.4, 0.3, 0.2), strict=True)):
        this.tell(trial(index, encode(decode(code)), mean_ap))
    rng = np.random.default_rng(0)
    parents = Counter(encode(this.ask(rng).parent) for _ in range(1500))
    ranked = [parents[encode(decode(code))] for code in codes]
    assert ranked[0] == 0  # the worst is not among the best three
    assert ranked[1] / 1500 == pytest.approx(3 / 6, abs=0.05)
    assert ranked[3] / 1500 == pytest.approx(1 / 6, abs=0.05)


def test_the_start_is_asked_again_until_it_was_trained() -> None:
    this = searcher()
    this.tell(trial(0, "b_11-21-21-21_0-0-0-0", None))
    assert this.ask(np.random.default_rng(0)).child == START


def test_a_metric_of_zero_is_a_metric() -> None:
    this = searcher()
    this.tell(trial(0, "b_11-21-21-21_0-0-0-0", 0.0))
    assert this.ask(np.random.default_rng(0)).child != START


def test_an_exhausted_space_ends_and_says_why() -> None:
    def too_slow(architecture: Architecture) -> tuple[str, ...]:
        return ("latency_ms 9 > 1",)

    this = searcher(too_slow)
    this.tell(trial(0, encode(START), 0.1))
    with pytest.raises(SpaceExhausted, match="latency_ms"):
        this.ask(np.random.default_rng(0))


@pytest.mark.parametrize(
    "settings",
    [
        {"max_optimal": 0},
        {"num_mutate": 0},
        {"expand_prob": 0.9, "add_stage_prob": 0.2},
        {"expand_prob": -0.1},
    ],
)
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(ValueError):
        searcher(**settings)
