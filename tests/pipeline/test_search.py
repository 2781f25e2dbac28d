"""Searches whose trainings are made up: what is asked for, what is kept, what a crash leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spnas_hw.config import SearchConfig, load_search
from spnas_hw.cost.composition import workloads
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.workload import Connection
from spnas_hw.errors import DataError, RunError, TrainingError
from spnas_hw.pipeline import search as step
from spnas_hw.pipeline.start import check
from spnas_hw.run import JOURNAL, Run
from spnas_hw.schedule import Reignition
from spnas_hw.search.journal import Journal, best_of_each, ranked, read_journal
from spnas_hw.search.loop import Evaluation
from spnas_hw.search.parallel import ParallelSettings
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import add_branch
from tests.tables import write_table

ITERATIONS = 300


class MadeUp:
    """Trains nothing, but needs the parent's weights, and writes its own. mAP is noise: any trial may turn
    out to be worse than the one before it."""

    def __init__(self, folder: Path, seed: int, failures: tuple[int, ...] = (), killed_at: int = -1) -> None:
        self.folder, self.seed, self.failures, self.killed_at = folder, seed, failures, killed_at
        self.calls = 0

    def __call__(self, proposal: Proposal, trial_id: int, parent_id: int | None) -> Evaluation:
        self.calls += 1
        if parent_id is not None:
            assert self.weights(parent_id).exists(), (proposal.operator, trial_id, parent_id)
        if trial_id == self.killed_at:
            self.killed_at = -1
            raise KeyboardInterrupt
        if self.calls in self.failures:
            raise TrainingError("made up")
        self.weights(trial_id).parent.mkdir(parents=True, exist_ok=True)
        self.weights(trial_id).write_text("weights")
        noise = float(np.random.default_rng([self.seed, trial_id]).random())
        return Evaluation(
            {"mAP": proposal.child.depth / 200 + 0.2 * noise}, round(ITERATIONS * proposal.share)
        )

    def weights(self, trial_id: int) -> Path:
        return self.folder / f"{trial_id:04d}" / "weights.safetensors"


@pytest.fixture
def config(tmp_path: Path) -> SearchConfig:
    images = tmp_path / "imagenet"
    for split in ("train", "val"):
        (images / split).mkdir(parents=True)
    demo = load_search("demo")
    return replace(
        demo,
        schedule=replace(demo.schedule, iterations=ITERATIONS),
        parallel=ParallelSettings(4),
        reignition=Reignition(images, 16, 10, 2, 0.1, 0.0, 1),
        seed=0,
    )


Go = Callable[..., list[Any]]
AMPLE = Budget(macs=1e10)


@pytest.fixture
def notes() -> list[str]:
    """What the user was told."""
    return []


@pytest.fixture
def go(tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> Go:
    def search(
        config: SearchConfig,
        name: str,
        made_up: MadeUp,
        phase: Any = "serial",
        budget: Budget = AMPLE,
        table: Path | None = None,
        keep: int = 1,
    ) -> list[Any]:
        monkeypatch.setattr(step, "evaluator", lambda run, folder, progress: made_up)
        run = Run(tmp_path / name, config, budget, table)
        check(run, (run.folder / JOURNAL).exists(), [phase])
        ignore: Any = lambda *told: None  # noqa: E731
        return step.search(run, phase=phase, progress=ignore, on_trial=ignore, note=notes.append, keep=keep)

    return search


def serial(config: SearchConfig, **changes: Any) -> SearchConfig:
    return replace(config, serial=replace(config.serial, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_optimal": 1, "reignitions": 2, "window": 4},
        {"max_optimal": 3, "reignitions": 2, "window": 5},
        {"rungs": (0.25, 1.0)},
        {"rungs": (0.2, 0.5, 1.0), "keep": 2, "reignitions": 1, "window": 4, "candidates": 3},
    ],
)
def test_whatever_is_asked_for_still_has_its_weights(
    changes: dict[str, Any], config: SearchConfig, go: Go, tmp_path: Path
) -> None:
    for seed in range(6):
        name = f"run{seed}"
        made_up = MadeUp(tmp_path / name / "trials", seed, failures=(5, 11))
        seeded = replace(serial(config, max_sample=40, **changes), seed=seed)
        assert len(go(seeded, name, made_up)) == 40
        left = list((tmp_path / name / "trials").glob("*/weights.safetensors"))
        assert len(left) < 30  # and the others are gone


def test_the_best_keep_their_weights_when_they_are_to_be_measured(
    config: SearchConfig, go: Go, tmp_path: Path
) -> None:
    made_up = MadeUp(tmp_path / "run" / "trials", 0)
    trials = go(serial(config, max_sample=40, rungs=(0.25, 1.0)), "run", made_up, keep=7)
    best = best_of_each(trials)[:7]
    assert len({trial.code for trial in best}) == 7
    assert all(made_up.weights(trial.trial_id).exists() for trial in best)


def test_the_phases_leave_each_other_their_weights(config: SearchConfig, go: Go, tmp_path: Path) -> None:
    for seed in range(8):
        name = f"run{seed}"
        made_up = MadeUp(tmp_path / name / "trials", seed)
        seeded = replace(serial(config, max_sample=10), seed=seed)
        go(seeded, name, made_up)
        go(seeded, name, made_up, "parallel")
        go(serial(seeded, max_sample=30), name, made_up)
        longer = replace(seeded, parallel=ParallelSettings(8))
        trials = go(longer, name, made_up, "parallel")
        assert [t.phase for t in trials].count("parallel") == 8
        assert len({t.parent_code for t in trials if t.phase == "parallel"}) == 1  # the base stays


def test_a_search_killed_anywhere_tells_the_same_story(config: SearchConfig, go: Go, tmp_path: Path) -> None:
    wanted = serial(config, max_sample=16, rungs=(0.25, 1.0), reignitions=1, window=4, candidates=2)

    def story(name: str, killed_at: int) -> list[Any]:
        made_up = MadeUp(tmp_path / name / "trials", 0, killed_at=killed_at)
        try:
            return go(wanted, name, made_up)
        except KeyboardInterrupt:
            return go(wanted, name, made_up)

    def told(trials: list[Any]) -> list[Any]:
        return [replace(trial, t_start=0, t_end=0) for trial in trials]

    whole = told(story("whole", -1))
    assert {"promote", "reignite"} <= {trial.operator for trial in whole}
    for killed_at in range(16):
        assert told(story(f"killed{killed_at}", killed_at)) == whole


def test_a_start_that_failed_is_tried_again(config: SearchConfig, go: Go, tmp_path: Path) -> None:
    made_up = MadeUp(tmp_path / "run" / "trials", 0, failures=(1,))
    one = serial(config, max_sample=1)
    with pytest.raises(RunError, match="could not be trained"):
        go(one, "run", made_up)
    assert [trial.status for trial in go(one, "run", made_up)] == ["failed", "ok"]


def test_the_parallel_phase_of_a_network_that_failed_begins_again(
    config: SearchConfig, go: Go, tmp_path: Path
) -> None:
    made_up = MadeUp(tmp_path / "run" / "trials", 0, failures=(1,))
    with pytest.raises(RunError, match="could not be trained"):
        go(config, "run", made_up, "parallel")
    trials = go(config, "run", made_up, "parallel")
    assert [trial.operator for trial in trials[:2]] == ["seed", "seed"]
    assert all(trial.parent_id == 1 for trial in trials[2:])


def test_the_baseline_survives_failures(
    config: SearchConfig, go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = tmp_path / "run" / "trials"
    several = serial(config, max_sample=6)
    with pytest.raises(RunError):
        go(several, "run", MadeUp(trials, 0, failures=(1,)))  # so that the first network is trial 1
    go(several, "run", MadeUp(trials, 0))
    run = Run(tmp_path / "run", several, AMPLE, None)
    again = MadeUp(run.folder / "baseline", 0, failures=(1,))
    monkeypatch.setattr(step, "evaluator", lambda run, folder, progress: again)
    if run.winner().iterations > run.trials()[1].iterations:
        with pytest.raises(RunError, match="made up; --resume tries again"):
            step.train_baseline(run, lambda *told: None)
    assert step.train_baseline(run, lambda *told: None).iterations >= run.winner().iterations


def test_reignition_without_its_images_is_refused_before_anything_is_trained(
    config: SearchConfig, go: Go, tmp_path: Path
) -> None:
    (tmp_path / "imagenet" / "val").rmdir()
    made_up = MadeUp(tmp_path / "run" / "trials", 0)
    with pytest.raises(DataError, match="imagenet/val is missing"):
        go(serial(config, reignitions=1), "run", made_up)
    assert made_up.calls == 0


def test_the_journal_says_what_was_decided(config: SearchConfig, go: Go, tmp_path: Path) -> None:
    made_up = MadeUp(tmp_path / "run" / "trials", 0)
    go(serial(config, max_sample=30, rungs=(0.5, 1.0), reignitions=2, window=4), "run", made_up)
    _, trials = read_journal(tmp_path / "run" / JOURNAL)
    decided = {t.operator: t.why for t in trials if t.operator in ("promote", "reignite")}
    assert "best one in 3 of rung 0" in decided["promote"]
    assert "was not raised by more than" in decided["reignite"]


def test_sub_networks_stand_on_the_best_network_that_leaves_room(
    config: SearchConfig, go: Go, notes: list[str], tmp_path: Path
) -> None:
    made_up = MadeUp(tmp_path / "run" / "trials", 0)
    grown = go(serial(config, max_sample=12), "run", made_up)
    best, *others = ranked(grown)
    full = Budget(macs=best.macs)  # to the last MAC
    run = Run(tmp_path / "run", config, full, None)
    expected = step.parallel_base(run, grown)
    assert expected != best.code and expected in {trial.code for trial in others}
    run.folder.joinpath(JOURNAL).unlink()  # the same trials under the tight budget
    journal = Journal(run.folder / JOURNAL, run.header())
    for trial in grown:
        journal.append(trial)
    trials = go(config, "run", made_up, "parallel", full)
    new = [trial for trial in trials if trial.phase == "parallel"]
    assert {trial.parent_code for trial in new} == {expected}
    assert all(trial.macs <= best.macs for trial in new)
    assert any("leaves no room" in note and str(expected) in note for note in notes)


def test_sub_networks_whose_connection_failed_are_left_out(
    config: SearchConfig, go: Go, tmp_path: Path
) -> None:
    start = decode(config.start)
    second = add_branch(start, 1).child
    loads = workloads(second, config.detector, config.size)
    failed = {load.key for load in loads if isinstance(load, Connection)}
    table = write_table(tmp_path / "table", config, lambda load: None if load.key in failed else 0.1)
    made_up = MadeUp(tmp_path / "run" / "trials", 0)
    trials = go(config, "run", made_up, "parallel", table=table)
    grown = [decode(trial.code) for trial in trials if not decode(trial.code).is_serial]
    assert len(failed) == 1 and grown
    assert not any(network.stages[1].branches for network in grown)


def test_a_space_that_runs_dry_ends_the_search_with_what_it_found(
    config: SearchConfig, go: Go, tmp_path: Path
) -> None:
    tiny = replace(config, space=replace(config.space, depth=(8, 8), stages=(4, 4)))
    frozen = serial(tiny, max_sample=20, expand_prob=1.0, add_stage_prob=0.0)
    trials = go(frozen, "run", MadeUp(tmp_path / "run" / "trials", 0))
    assert [trial.status for trial in trials] == ["ok"]
    assert (tmp_path / "run" / "pareto_front.csv").exists()
