from __future__ import annotations

from pathlib import Path

import pytest

from spnas_hw.cost.composition import Cost
from spnas_hw.errors import RunError, TrainingError
from spnas_hw.search.journal import Journal
from spnas_hw.search.loop import Evaluation, run
from spnas_hw.search.serial import SerialSearcher, SerialSettings
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.codec import decode
from spnas_hw.space.search_space import SearchSpace

SPACE = SearchSpace((Block("basic"),), stages=(4, 6), depth=(8, 20), doublings=(3, 3))


def price(architecture: Architecture) -> Cost:
    return Cost(float(architecture.depth), 1.0, architecture.depth, 1, architecture.depth, 4)


def searched(path: Path, samples: int, evaluate, seed: int = 0) -> Journal:
    searcher = SerialSearcher(
        decode("b_11-21-21-21"), SPACE, SerialSettings(max_sample=samples), lambda a: ()
    )
    journal = Journal(path, {"seed": seed})
    run(searcher, evaluate, journal, price=price, max_sample=samples, seed=seed)
    return journal


def deeper_is_better(proposal, trial_id, parent_id) -> Evaluation:
    return Evaluation({"mAP": proposal.child.depth / 100}, 50)


def story(journal: Journal) -> list:
    return [(t.trial_id, t.code, t.parent_id, t.operator, t.metrics, t.iterations) for t in journal.trials]


def test_a_resumed_search_tells_the_same_story(tmp_path: Path) -> None:
    whole = searched(tmp_path / "a.jsonl", 8, deeper_is_better)
    calls = []

    def interrupted(proposal, trial_id, parent_id):
        calls.append(trial_id)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return deeper_is_better(proposal, trial_id, parent_id)

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "b.jsonl", 8, interrupted)
    resumed = searched(tmp_path / "b.jsonl", 8, interrupted)
    assert story(resumed) == story(whole)
    assert calls == [0, 1, 2, 3, 3, 4, 5, 6, 7]
    assert searched(tmp_path / "b.jsonl", 8, interrupted).trials == resumed.trials


def test_iterations_add_up_along_the_ancestors(tmp_path: Path) -> None:
    trials = searched(tmp_path / "j.jsonl", 8, deeper_is_better).trials
    for trial in trials[1:]:
        assert trial.iterations == trials[trial.parent_id].iterations + 50
        assert trial.parent_code == trials[trial.parent_id].code
    assert trials[0].operator == "seed" and trials[0].parent_id is None


def test_a_failed_candidate_is_a_failed_trial(tmp_path: Path) -> None:
    def fragile(proposal, trial_id, parent_id):
        if trial_id == 2:
            raise TrainingError("loss is not finite")
        return deeper_is_better(proposal, trial_id, parent_id)

    trials = searched(tmp_path / "j.jsonl", 5, fragile).trials
    assert [t.status for t in trials] == ["ok", "ok", "failed", "ok", "ok"]
    assert trials[2].reason == "loss is not finite" and trials[2].mean_ap is None
    assert 2 not in [t.parent_id for t in trials]


def test_a_failed_start_ends_the_search(tmp_path: Path) -> None:
    def broken(proposal, trial_id, parent_id):
        raise TrainingError("no images")

    with pytest.raises(RunError, match=r"could not be trained: no images.*--resume"):
        searched(tmp_path / "j.jsonl", 5, broken)
    healed = searched(tmp_path / "j.jsonl", 5, deeper_is_better).trials
    assert [t.status for t in healed] == ["failed", "ok", "ok", "ok", "ok"]
    assert healed[1].code == healed[0].code and healed[1].parent_id is None


def test_programming_errors_are_not_trials(tmp_path: Path) -> None:
    def buggy(proposal, trial_id, parent_id):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        searched(tmp_path / "j.jsonl", 5, buggy)
