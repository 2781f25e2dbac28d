from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from spnas_hw.cost.composition import macs, workloads
from spnas_hw.errors import SpaceExhausted
from spnas_hw.search.parallel import ParallelSearcher, ParallelSettings
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace
from tests.search.contract import SearcherContract
from tests.search.trials import trial

SERIAL = decode("b_111-21-211-21")
DETECTOR = Detector(("pedestrian",))


def macs_of(architecture: Architecture) -> int:
    return macs(workloads(architecture, DETECTOR, (96, 160)))


def searcher(objections=lambda architecture: (), trained: bool = False, **settings) -> ParallelSearcher:
    return ParallelSearcher(SERIAL, trained, ParallelSettings(50, **settings), macs_of, objections)


class TestParallelSearcher(SearcherContract):
    space = SearchSpace((Block("basic"),), stages=(4, 6), depth=(8, 20), doublings=(3, 3))

    def make(self, objections):
        return searcher(objections)


def test_what_was_trained_is_not_trained_again() -> None:
    assert searcher(trained=True).ask(np.random.default_rng(0)).child != SERIAL
    assert searcher().ask(np.random.default_rng(0)).child == SERIAL


def test_every_candidate_stands_on_the_serial_network() -> None:
    this = searcher(trained=True)
    for seed in range(30):
        proposal = this.ask(np.random.default_rng(seed))
        assert proposal.morphism.parent == SERIAL and proposal.morphism.preserves_function
        stages = [stage.doubles for stage in proposal.child.stages]
        assert stages == [stage.doubles for stage in SERIAL.stages]
        assert 1 <= sum(stage.branches for stage in proposal.child.stages) <= 6


def test_the_chance_of_a_stage_falls_with_the_macs_it_adds() -> None:
    this = searcher(trained=True, max_branches=1)
    rng = np.random.default_rng(0)
    found = Counter(
        next(i for i, stage in enumerate(this.ask(rng).child.stages) if stage.branches) for _ in range(3000)
    )
    added = []
    for index in range(4):
        code = f"b_111-21-211-21_{'-'.join('1' if i == index else '0' for i in range(4))}"
        added.append(macs_of(decode(code)) - macs_of(SERIAL))
    odds = np.array([1 / value for value in added])
    for index, expected in enumerate(odds / odds.sum()):
        assert found[index] / 3000 == pytest.approx(expected, abs=0.03)


def test_a_budget_without_room_ends_and_says_why() -> None:
    with pytest.raises(SpaceExhausted, match="macs"):
        searcher(lambda architecture: ("macs 2 > 1",), trained=True).ask(np.random.default_rng(0))


def test_sub_networks_are_not_stacked_on_sub_networks() -> None:
    with pytest.raises(ValueError, match="start from a serial network"):
        ParallelSearcher(decode("b_1-1_0-1"), True, ParallelSettings(1), macs_of, lambda a: ())


def test_the_weights_of_the_serial_network_and_the_best_are_kept() -> None:
    this = searcher()
    for index, code in enumerate([encode(SERIAL), "b_111-21-211-21_0-0-0-1", "b_111-21-211-21_0-1-0-0"]):
        this.tell(trial(index, code, 0.1 * index, phase="parallel"))
    assert this.needed() == {0, 2}


@pytest.mark.parametrize("settings", [{"max_sample": 0}, {"max_sample": 1, "max_branches": 0}])
def test_settings_are_checked(settings: dict) -> None:
    with pytest.raises(ValueError):
        ParallelSettings(**settings)
