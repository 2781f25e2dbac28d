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

SPACE = SearchSpace((Block("basic"), Block("bottleneck")), stages=(4, 6), depth=(8, 20), doublings=(3, 4))
START = decode("b_11-21-21-21")


def searcher(objections=lambda architecture: (), **settings) -> SerialSearcher:
    return SerialSearcher(START, SPACE, SerialSettings(max_sample=10, **settings), objections)


class TestSerialSearcher(SearcherContract):
    def make(self, objections):
        return searcher(objections)

    space = SPACE


class TestWithSurrogate(TestSerialSearcher):
    def make(self, objections):
        return searcher(objections, candidates=4)


class TestWithRungs(TestSerialSearcher):
    def make(self, objections):
        return searcher(objections, rungs=(0.2, 0.5, 1.0), keep=2)


class TestWithReignition(TestSerialSearcher):
    def make(self, objections):
        return searcher(objections, reignitions=2, window=3, min_gain=0.05)


def operators(count: int, **settings) -> Counter[str]:
    """The single operators that `count` proposals of one mutation consist of."""
    this = searcher(num_mutate=1, **settings)
    this.tell(trial(0, encode(decode("b_111-211-211-211")), 0.3))
    rng = np.random.default_rng(0)
    return Counter(this.ask(rng).operator for _ in range(count))


def test_probabilities_mean_what_they_say() -> None:
    """In the ancestor they were the probabilities of not acting."""
    wanted = {"expand": 0.3, "shrink": 0.1, "add_stage": 0.2, "change_block": 0.1, "widen": 0.15}
    found = operators(3000, **{f"{name}_prob": probability for name, probability in wanted.items()})
    for operator, probability in {**wanted, "swap": 0.15}.items():
        assert found[operator] / 3000 == pytest.approx(probability, abs=0.03)


def test_certain_and_impossible_operators() -> None:
    assert set(operators(50, expand_prob=1.0, add_stage_prob=0.0)) == {"expand"}
    assert "expand" not in operators(50, expand_prob=0.0, add_stage_prob=0.5)


def test_better_parents_are_likelier() -> None:
    this = searcher(num_mutate=1, expand_prob=1.0, add_stage_prob=0.0, max_optimal=3)
    codes = ["b_11-21-21-21", "b_111-21-21-21", "b_11-211-21-21", "b_11-21-211-21"]
    for index, (code, mean_ap) in enumerate(zip(codes, (0.1, 0.4, 0.3, 0.2), strict=True)):
        this.tell(trial(index, encode(decode(code)), mean_ap))
    rng = np.random.default_rng(0)
    parents = Counter(encode(this.ask(rng).morphism.parent) for _ in range(1500))
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


def grown(this: SerialSearcher, metrics: list[float | None]) -> None:
    """Tells so many trials: deeper and deeper networks of the given mAPs."""
    for index, mean_ap in enumerate(metrics):
        told = len(this.history.trials)
        code = encode(decode(f"b_11{'1' * told}-21-21-21"))
        this.tell(trial(told, code, mean_ap, operator="expand" if index else "seed"))


def test_a_bottleneck_reignites_the_best_twice_at_most() -> None:
    this = searcher(reignitions=2, window=3, min_gain=0.01)
    rng = np.random.default_rng(0)
    grown(this, [0.1, 0.3, 0.2, 0.305, 0.1])
    first = this.ask(rng)
    assert first.reignite and first.operator == "reignite" and first.share == 1.0
    assert first.morphism.parent == first.child == decode("b_11111-21-21-21")  # the best, with 0.305
    assert first.why is not None and "0.3000 of trial 1" in first.why and "3 trials" in first.why
    this.tell(trial(5, encode(first.child), 0.31, operator="reignite"))
    grown(this, [0.32, 0.30])
    assert not this.ask(rng).reignite  # too early
    grown(this, [0.1, 0.1])
    second = this.ask(rng)
    assert second.reignite and encode(second.child) == this.history.heirs()[0].code
    this.tell(trial(10, encode(second.child), 0.3, operator="reignite"))
    grown(this, [0.1] * 5)
    assert not this.ask(rng).reignite  # as often as allowed


def test_growth_is_no_bottleneck() -> None:
    this = searcher(reignitions=2, window=3, min_gain=0.01)
    grown(this, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert not this.ask(np.random.default_rng(0)).reignite


def test_failures_are_no_growth() -> None:
    this = searcher(reignitions=1, window=3)
    grown(this, [0.1, None, None, None])
    found = this.ask(np.random.default_rng(0))
    assert found.reignite and found.why is not None and "none was validated" in found.why


def test_the_best_of_a_rung_are_trained_further() -> None:
    this = searcher(rungs=(0.25, 1.0), keep=3)
    rng = np.random.default_rng(0)
    seed = this.ask(rng)
    assert (seed.rung, seed.share) == (1, 1.0)  # what inherits nothing is trained fully
    this.tell(trial(0, encode(START), 0.2, rung=1))
    codes = ["b_111-21-21-21", "b_11-211-21-21", "b_11-21-211-21"]
    for index, (code, mean_ap) in enumerate(zip(codes, (0.1, 0.3, 0.2), strict=True), 1):
        new = this.ask(rng)
        assert (new.rung, new.share) == (0, 0.25)
        this.tell(trial(index, encode(decode(code)), mean_ap))
    promoted = this.ask(rng)
    assert (promoted.operator, promoted.rung, promoted.share) == ("promote", 1, 0.75)
    assert promoted.child == promoted.morphism.parent == decode(codes[1])
    assert promoted.why == "among the best one in 3 of rung 0"
    this.tell(trial(4, encode(promoted.child), None, rung=1))  # it failed
    assert this.ask(rng).rung == 0  # and is not promoted again


def test_the_surrogate_finds_the_better_mutants() -> None:
    """Where depth is all that counts, the children grow faster than those of chance."""

    def depth_after(candidates: int) -> float:
        depths = []
        for seed in range(5):
            this = searcher(candidates=candidates, expand_prob=0.5, num_mutate=2)
            for index in range(12):
                child = this.ask(np.random.default_rng([seed, index])).child
                this.tell(trial(index, encode(child), child.depth / 100))
            depths.append(max(decode(t.code).depth for t in this.history.trials))
        return float(np.mean(depths))

    assert depth_after(8) > depth_after(1) + 1


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
        {"candidates": 0},
        {"rungs": ()},
        {"rungs": (0.5,)},
        {"rungs": (0.5, 0.5, 1.0)},
        {"rungs": (0.0, 1.0)},
        {"keep": 1},
        {"reignitions": 3},
        {"window": 0},
        {"min_gain": -0.1},
    ],
)
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(ValueError):
        searcher(**settings)
