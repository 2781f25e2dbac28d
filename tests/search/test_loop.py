from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spnas_hw.cost.composition import Cost
from spnas_hw.errors import RunError, TrainingError
from spnas_hw.search.journal import Journal, read_journal
from spnas_hw.search.loop import Evaluation, run
from spnas_hw.search.parallel import ParallelSearcher, ParallelSettings
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


def test_promotions_go_on_where_the_rung_ended(tmp_path: Path) -> None:
    asked = []

    def evaluate(proposal, trial_id, parent_id) -> Evaluation:
        asked.append((proposal.operator, proposal.share, parent_id))
        return Evaluation({"mAP": proposal.child.depth / 100}, round(100 * proposal.share))

    settings = SerialSettings(max_sample=14, rungs=(0.25, 1.0), keep=3)
    searcher = SerialSearcher(decode("b_11-21-21-21"), SPACE, settings, lambda a: ())
    journal = Journal(tmp_path / "j.jsonl", {})
    run(searcher, evaluate, journal, price=price, max_sample=14, seed=0)
    promoted = [trial for trial in journal.trials if trial.operator == "promote"]
    assert promoted and {trial.rung for trial in promoted} == {1}
    for trial in promoted:
        parent = journal.trials[trial.parent_id]
        assert (parent.code, parent.rung) == (trial.code, 0)
        assert trial.iterations == parent.iterations + 75
        assert trial.why == "among the best one in 3 of rung 0"
        assert asked[trial.trial_id] == ("promote", 0.75, parent.trial_id)
        better = [t for t in journal.trials[: trial.trial_id] if t.rung == 0 and t.mean_ap > parent.mean_ap]
        assert len(better) < sum(t.rung == 0 for t in journal.trials[: trial.trial_id]) / 3


def test_a_reignition_and_its_reason_are_in_the_journal(tmp_path: Path) -> None:
    def flat(proposal, trial_id, parent_id) -> Evaluation:
        return Evaluation({"mAP": 0.2}, 50)

    settings = SerialSettings(max_sample=14, reignitions=2, window=4)
    searcher = SerialSearcher(decode("b_11-21-21-21"), SPACE, settings, lambda a: ())
    journal = Journal(tmp_path / "j.jsonl", {})
    run(searcher, flat, journal, price=price, max_sample=14, seed=0)
    reignited = [trial for trial in read_journal(journal.path)[1] if trial.operator == "reignite"]
    assert [trial.trial_id for trial in reignited] == [5, 10]
    assert all(trial.code == trial.parent_code and "in 4 trials" in trial.why for trial in reignited)


def test_the_phases_share_a_journal(tmp_path: Path) -> None:
    serial = searched(tmp_path / "j.jsonl", 4, deeper_is_better)
    best = max(serial.trials, key=lambda t: t.mean_ap)

    def parallel(samples: int) -> Journal:
        journal = Journal(tmp_path / "j.jsonl", {"seed": 0})
        searcher = ParallelSearcher(
            decode(best.code),
            True,
            ParallelSettings(samples),
            lambda a: a.depth * 10 + total(a),
            lambda a: (),
        )
        run(searcher, deeper_is_better, journal, price=price, max_sample=samples, seed=0, phase="parallel")
        return journal

    def total(architecture: Architecture) -> int:
        return 1 + sum(stage.branches for stage in architecture.stages)

    assert len(parallel(2).trials) == 6
    trials = parallel(3).trials
    assert [t.phase for t in trials] == ["serial"] * 4 + ["parallel"] * 3
    assert [t.trial_id for t in trials] == list(range(7))
    assert {t.parent_id for t in trials[4:]} == {best.trial_id}
    assert {t.operator.split("+")[0] for t in trials[4:]} == {"add_branch"}


def test_the_journal_holds_the_searchers_whole_state(tmp_path: Path) -> None:
    settings = SerialSettings(max_sample=12, rungs=(0.5, 1.0), reignitions=1, window=4, candidates=3)

    def fresh() -> SerialSearcher:
        return SerialSearcher(decode("b_11-21-21-21"), SPACE, settings, lambda a: ())

    live = fresh()
    run(live, deeper_is_better, Journal(tmp_path / "j.jsonl", {}), price=price, max_sample=12, seed=0)
    replayed = fresh()
    for trial in read_journal(tmp_path / "j.jsonl")[1]:
        replayed.tell(trial)
    state, other = ({k: v for k, v in vars(s).items() if k != "objections"} for s in (live, replayed))
    assert state == other
    assert replayed.ask(np.random.default_rng(5)) == live.ask(np.random.default_rng(5))
