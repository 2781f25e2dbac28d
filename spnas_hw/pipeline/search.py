"""The serial search of a run, and the baseline it is compared with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from spnas_hw.errors import RunError
from spnas_hw.run import JOURNAL, Run
from spnas_hw.search.journal import Journal, Trial, write_views
from spnas_hw.search.loop import Evaluation, Evaluator
from spnas_hw.search.loop import run as run_search
from spnas_hw.search.serial import SerialSearcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import Morphism, unchanged

TrialProgress = Callable[[int, int, int], None]
"""(trial_id, iterations done, iterations in all)"""


def check(run: Run, resume: bool) -> None:
    """Refuses at once what could not end well.

    Raises:
        InfeasibleBudget: no architecture can meet the budget.
        RunError: the folder holds a search and not `resume`, or none and `resume`.
    """
    run.check_feasible()
    exists = (run.folder / JOURNAL).exists()
    if exists and not resume:
        raise RunError(f"{run.folder} already holds a search: add --resume, or choose another --run")
    if resume and not exists:
        raise RunError(f"{run.folder} holds no search to resume: leave --resume out")


def search(
    run: Run,
    *,
    resume: bool,
    progress: TrialProgress,
    on_trial: Callable[[Trial], None],
    note: Callable[[str], None],
) -> list[Trial]:
    """The serial search; returns all trials. Raises what `check` does, and the searcher's errors."""
    check(run, resume)
    start, why = run.start()
    if why:
        note(why)
    evaluate = _evaluator(run, run.folder / "trials", progress)
    journal = Journal(run.folder / JOURNAL, run.header())
    searcher = SerialSearcher(start, run.config.space, run.config.serial, run.objections)

    def finish(trial: Trial) -> None:
        write_views(journal.trials, run.folder)
        _remove_unneeded(journal.trials, run)
        on_trial(trial)

    run_search(
        searcher,
        evaluate,
        journal,
        price=run.price,
        max_sample=run.config.serial.max_sample,
        seed=run.config.seed,
        latency_source=run.latency_source,
        on_trial=finish,
    )
    write_views(journal.trials, run.folder)  # a crash may have come between journal and views
    return journal.trials


def train_baseline(run: Run, progress: TrialProgress) -> Trial:
    """Trains the network the search started from as long as the winner and its ancestors were trained,
    in the same steps, and returns the last of these trials. Kept in `baseline/`, resumed from there."""
    first = next(trial for trial in run.trials() if trial.mean_ap is not None)
    winner = run.winner()
    folder = run.folder / "baseline"
    journal = Journal(folder / JOURNAL, {"baseline_of": first.code})
    start = folder / "0000"
    if not start.exists():
        partial = folder / "0000.partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(run.folder / "trials" / f"{first.trial_id:04d}", partial)
        partial.rename(start)
    if not journal.trials:
        journal.append(first)
    run_search(
        _Again(decode(first.code)),
        _evaluator(run, folder, progress),
        journal,
        price=run.price,
        max_sample=1 + (winner.iterations - first.iterations) // run.config.schedule.iterations,
        seed=run.config.seed,
        latency_source=run.latency_source,
    )
    baseline = run.baseline()
    if baseline is None:
        raise RunError(f"the baseline could not be trained: {journal.trials[-1].reason}")
    return baseline


@dataclass(frozen=True)
class _Again:
    """A searcher that asks for one network again and again: a longer training."""

    architecture: Architecture

    def ask(self, rng: object) -> Morphism:
        return unchanged(self.architecture)

    def tell(self, trial: Trial) -> None:
        """There is nothing to learn."""


def _evaluator(run: Run, folder: Path, progress: TrialProgress) -> Evaluator:
    from spnas_hw.detection.evaluator import ShortTraining

    config = run.config

    def evaluate(morphism: Morphism, trial_id: int, parent_id: int | None) -> Evaluation:
        training = ShortTraining(
            folder,
            config.detector,
            config.dataset,
            config.schedule,
            config.size,
            config.seed,
            lambda done, total: progress(trial_id, done, total),
        )
        return training(morphism, trial_id, parent_id)

    return evaluate


def _remove_unneeded(trials: list[Trial], run: Run) -> None:
    """Keeps the weights of the first trial and of those that may still be parents or the winner."""
    ranked = sorted(
        (trial for trial in trials if trial.mean_ap is not None),
        key=lambda trial: (-(trial.mean_ap or 0.0), trial.trial_id),
    )
    first = ranked and min(trial.trial_id for trial in ranked)
    needed = {first, *(trial.trial_id for trial in ranked[: run.config.serial.max_optimal])}
    for trial in trials:
        if trial.trial_id not in needed:
            (run.folder / "trials" / f"{trial.trial_id:04d}" / "weights.safetensors").unlink(missing_ok=True)
