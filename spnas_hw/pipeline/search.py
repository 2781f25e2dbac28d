"""The phases of a search in a run, and the baseline it is compared with."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from spnas_hw.cost.composition import macs, workloads
from spnas_hw.errors import RunError, SpaceExhausted
from spnas_hw.run import JOURNAL, WEIGHTS, Run
from spnas_hw.search.history import History
from spnas_hw.search.journal import TOTAL_LISTS, Journal, Phase, Trial, best_of_each, ranked, write_views
from spnas_hw.search.loop import Evaluation, Evaluator
from spnas_hw.search.loop import run as run_search
from spnas_hw.search.parallel import ParallelSearcher
from spnas_hw.search.proposal import Proposal
from spnas_hw.search.searcher import Searcher
from spnas_hw.search.serial import SerialSearcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import add_branch, unchanged

TrialProgress = Callable[[int, int, int], None]
"""(trial_id, iterations done, iterations in all)"""


def search(
    run: Run,
    *,
    phase: Phase = "serial",
    progress: TrialProgress,
    on_trial: Callable[[Trial], None],
    note: Callable[[str], None],
    keep: int = 1,
) -> list[Trial]:
    """One phase of a search that was checked; returns all trials. The trials that the run has are not
    repeated. The parallel phase starts from the best serial trial, or from the configured start where nothing
    was searched.

    The weights of the best `keep` networks stay, beside those that the search may go on from. A space in
    which nothing new fits ends the phase with a note. Raises RunError.
    """
    journal = Journal(run.folder / JOURNAL, run.header())
    searcher, max_sample = _searcher(run, phase, journal.trials, note)

    def finish(trial: Trial) -> None:
        write_views(journal.trials, run.folder)
        _remove_unneeded(run, journal.trials, keep)
        on_trial(trial)

    try:
        run_search(
            searcher,
            evaluator(run, run.folder / "trials", progress),
            journal,
            price=run.price,
            max_sample=max_sample,
            seed=run.config.seed,
            phase=phase,
            latency_source=run.latency_source,
            on_trial=finish,
        )
    except SpaceExhausted as error:
        if not ranked(journal.trials):
            raise
        note(f"the {phase} phase ends with {len(journal.trials)} trials: {error}")
    write_views(journal.trials, run.folder)  # a crash may have come between journal and views
    return journal.trials


def trials_wanted(run: Run, phase: Phase) -> int | None:
    """How many trials a phase takes; None where the configuration has no such phase."""
    settings = run.config.serial if phase == "serial" else run.config.parallel
    return None if settings is None else settings.max_sample


def _searcher(
    run: Run, phase: Phase, trials: list[Trial], note: Callable[[str], None]
) -> tuple[Searcher, int]:
    """The searcher of a phase, and how many trials it may take."""
    config = run.config
    if phase == "serial":
        start, why = run.start()
        if why:
            note(why)
        return SerialSearcher(start, config.space, config.serial, run.objections), config.serial.max_sample
    assert config.parallel is not None  # it was checked
    base = parallel_base(run, trials)
    best = next(iter(ranked(trial for trial in trials if trial.phase == "serial")), None)
    if best is not None and base not in (None, best.code):
        note(f"{best.code} leaves no room for sub-networks: they are stacked on {base}")
    searcher = ParallelSearcher(
        decode(base or config.start),
        base is not None,
        config.parallel,
        lambda a: macs(workloads(a, config.detector, config.size)),
        run.objections,
    )
    return searcher, config.parallel.max_sample


def parallel_base(run: Run, trials: list[Trial]) -> str | None:
    """The code of the serial network that a phase begun keeps to, or else the best one on which at least one
    sub-network is within the budget. None: nothing was searched."""
    begun = next((trial for trial in trials if trial.phase == "parallel"), None)
    if begun is not None:
        return begun.parent_code
    codes = [trial.code for trial in ranked(trial for trial in trials if trial.phase == "serial")]
    return next((code for code in codes if _has_room(run, decode(code))), codes[0] if codes else None)


def _has_room(run: Run, serial: Architecture) -> bool:
    stages = range(len(serial.stages))
    return any(not run.objections(add_branch(serial, stage).child) for stage in stages)


def train_baseline(run: Run, progress: TrialProgress) -> Trial:
    """Trains the network the search started from as long as the winner and its ancestors were trained,
    in the same steps, and returns the last of these trials. Kept in `baseline/`, resumed from there."""
    first = next(trial for trial in run.trials() if trial.mean_ap is not None)
    winner, iterations = run.winner(), run.config.schedule.iterations
    folder = run.folder / "baseline"
    journal = Journal(folder / JOURNAL, {"baseline_of": first.code})
    copy_trial(run.trial_folder(first), folder / "0000")
    if not journal.trials:
        journal.append(replace(first, trial_id=0))
    done = max(trial.iterations for trial in journal.trials if trial.mean_ap is not None)
    run_search(
        Same(Proposal(unchanged(decode(first.code)))),
        evaluator(run, folder, progress),
        journal,
        price=run.price,
        max_sample=len(journal.trials) + max(0, math.ceil((winner.iterations - done) / iterations)),
        seed=run.config.seed,
        latency_source=run.latency_source,
    )
    baseline = run.baseline()
    if baseline is None:
        failed = next(trial for trial in reversed(journal.trials) if trial.reason)
        raise RunError(f"the baseline could not be trained: {failed.reason}; --resume tries again")
    return baseline


@dataclass(frozen=True)
class Same:
    """A searcher that asks for one thing whenever it is asked: a longer training."""

    proposal: Proposal

    def ask(self, rng: object) -> Proposal:
        return self.proposal

    def tell(self, trial: Trial) -> None:
        """There is nothing to learn."""

    def needed(self) -> set[int]:
        return set()


def copy_trial(trial: Path, target: Path) -> None:
    """Copies the folder of a trial, wholly or not at all; one that is there stays."""
    if not target.exists():
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(trial, partial)
        partial.rename(target)


def evaluator(run: Run, folder: Path, progress: TrialProgress) -> Evaluator:
    """What trains and validates the candidates of a run, each in `folder/<trial_id>`."""
    from spnas_hw.detection.evaluator import ShortTraining

    config = run.config

    def evaluate(proposal: Proposal, trial_id: int, parent_id: int | None) -> Evaluation:
        training = ShortTraining(
            folder,
            config.detector,
            config.dataset,
            config.schedule,
            config.size,
            config.seed,
            lambda done, total: progress(trial_id, done, total),
            config.reignition,
        )
        return training(proposal, trial_id, parent_id)

    return evaluate


def _remove_unneeded(run: Run, trials: list[Trial], keep: int) -> None:
    """Keeps the weights of the first trial, of the best ones, of the best one of each phase, and of those
    that a proposal of any phase may start from."""
    settings = run.config.serial
    validated = ranked(trials)
    needed = {min((trial.trial_id for trial in validated), default=None)}
    needed |= {trial.trial_id for trial in best_of_each(trials)[:keep]}
    for phase in TOTAL_LISTS:
        own = History([trial for trial in trials if trial.phase == phase])
        parents = settings.max_optimal if phase == "serial" else 1
        needed |= own.needed(parents, len(settings.rungs) if phase == "serial" else 1)
        needed |= {trial.trial_id for trial in ranked(own.trials)[:1]}
    base = parallel_base(run, trials)
    # A child starts from the latest trial of its parent.
    needed |= {max(t.trial_id for t in validated if t.code == base)} if base else set()
    for trial in trials:
        if trial.trial_id not in needed:
            (run.trial_folder(trial) / WEIGHTS).unlink(missing_ok=True)
