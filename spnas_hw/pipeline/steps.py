"""Runs the steps of a `sp_nas.yml` in one run folder: serial, then parallel, then the full training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from spnas_hw.errors import InvalidConfig, RunError
from spnas_hw.pipeline import search
from spnas_hw.pipeline.search import TrialProgress
from spnas_hw.pipeline.sp_nas_keys import FullTraining, Step, TrainStep
from spnas_hw.pipeline.sp_nas_run import best_code, iterations_of, list_path
from spnas_hw.run import FULL_TRAINING, JOURNAL, WEIGHTS, Run
from spnas_hw.search.journal import TOTAL_LISTS, Journal, Trial, ranked
from spnas_hw.search.loop import run as run_search
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import unchanged


def begin(run: Run, to_run: Sequence[Step]) -> None:
    """Opens the run's journal for its steps. Raises RunError where it belongs to another search, or where the
    first step needs trials that it does not have."""
    if not (run.folder / JOURNAL).exists() and to_run and _needs_serial_trials(run, to_run[0]):
        raise RunError(
            f"{to_run[0].name} needs {run.folder / TOTAL_LISTS['serial']}: run the serial step first"
        )
    Journal(run.folder / JOURNAL, run.header())


def run_step(
    run: Run,
    step: Step,
    *,
    progress: TrialProgress,
    on_trial: Callable[[Trial], None],
    note: Callable[[str], None],
) -> None:
    """One step of a run that has begun; what was done of it is not done again."""
    if isinstance(step, TrainStep):
        fully_train(run, step.trainer, progress=progress, on_trial=on_trial, note=note)
        return
    if _needs_serial_trials(run, step):
        best_of(run, run.folder / TOTAL_LISTS["serial"])  # raises where nothing was searched
    level = step.search_algorithm.sample_level
    search.search(run, phase=level, progress=progress, on_trial=on_trial, note=note)


def _needs_serial_trials(run: Run, step: Step) -> bool:
    """Whether a step is a parallel phase on the best network of this run's own list."""
    if isinstance(step, TrainStep):
        return False
    level, result = step.search_algorithm.sample_level, step.search_algorithm.last_search_result
    own = run.folder / TOTAL_LISTS["serial"]
    return level == "parallel" and result is not None and list_path(result, run.folder) == own


def fully_train(
    run: Run,
    training: FullTraining,
    *,
    progress: TrialProgress,
    on_trial: Callable[[Trial], None],
    note: Callable[[str], None],
) -> Trial:
    """Trains one network for the epochs of `training`, from its searched weights where the run has them;
    kept in `fullytrain/`, where a training that ended is not repeated.

    Raises:
        InvalidConfig, RunError: there is no such list or network.
    """
    code, source = _chosen(run, training)
    if source is None and training.reignition:
        raise InvalidConfig(f"{code} has no searched weights to reignite: set regnition to False")
    if source is None:
        note(f"{code} has no searched weights: trained from nothing")
    folder, iterations = run.folder / FULL_TRAINING, iterations_of(run.config, training.epoch)
    about = {"code": code, "from_trial": source and source.trial_id, "iterations": iterations}
    journal = Journal(folder / JOURNAL, {"fully_trained": about, "reignition": training.reignition})
    if source is not None and not journal.trials:
        search.copy_trial(run.folder / "trials" / f"{source.trial_id:04d}", folder / "0000")
        journal.append(replace(source, trial_id=0, parent_id=None, parent_code=None))
    if (done := run.fully_trained()) is not None:
        return done
    schedule = replace(run.config.schedule, iterations=iterations, start_iterations=iterations)
    longer = replace(run, config=replace(run.config, schedule=schedule))
    run_search(
        search.Same(Proposal(unchanged(decode(code)), reignite=training.reignition)),
        search.evaluator(longer, folder, progress),
        journal,
        price=run.price,
        max_sample=len(journal.trials) + 1,
        seed=run.config.seed,
        phase="serial" if source is None else source.phase,
        latency_source=run.latency_source,
        on_trial=on_trial,
    )
    if journal.trials[-1].mean_ap is None:
        raise RunError(f"the full training failed: {journal.trials[-1].reason}; --resume tries again")
    return journal.trials[-1]


def best_of(run: Run, path: Path) -> Trial:
    """The best trial of a list of the run's own. Raises RunError where it has none."""
    phase = next(phase for phase, name in TOTAL_LISTS.items() if path == run.folder / name)
    validated = ranked(trial for trial in run.trials() if trial.phase == phase)
    if not validated:
        raise RunError(f"{path} has no validated trial: run the {phase} step first")
    return validated[0]


def _chosen(run: Run, training: FullTraining) -> tuple[str, Trial | None]:
    """What to train fully, and the trial of this run whose weights it starts from."""
    if training.model_desc_file is not None:
        path = list_path(training.model_desc_file, run.folder)
        if path not in [run.folder / name for name in TOTAL_LISTS.values()]:
            return best_code(path), None
        best = best_of(run, path)
        return best.code, best
    code = encode(decode(training.model_desc or ""))
    for trial in reversed(run.trials()):
        weights = run.folder / "trials" / f"{trial.trial_id:04d}" / WEIGHTS
        if trial.code == code and trial.mean_ap is not None and weights.exists():
            return code, trial
    return code, None
