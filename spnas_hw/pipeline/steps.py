"""Runs the steps of a `sp_nas.yml` in one run folder: serial, then parallel, then the full training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from spnas_hw.errors import InvalidConfig, RunError
from spnas_hw.pipeline import search
from spnas_hw.pipeline.full_training import Plan, fully_train, plan, searched
from spnas_hw.pipeline.search import TrialProgress
from spnas_hw.pipeline.sp_nas_keys import FullTraining, Step, TrainStep
from spnas_hw.pipeline.sp_nas_run import best_code, list_path
from spnas_hw.run import JOURNAL, Run
from spnas_hw.search.journal import TOTAL_LISTS, Journal, Trial, ranked
from spnas_hw.space.codec import decode, encode


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
        fully_train(run, planned(run, step.trainer, note), progress=progress, on_trial=on_trial)
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


def planned(run: Run, trainer: FullTraining, note: Callable[[str], None]) -> Plan:
    """What a full training of the file trains: the best network of a list, or a code; from its searched
    weights where the run has them, on as many of the GPUs it names as there are.

    Raises:
        InvalidConfig, RunError: there is no such list or network.
    """
    from spnas_hw.detection.training import visible_gpus

    code, source = _chosen(run, trainer)
    if source is None and trainer.reignition:
        raise InvalidConfig(f"{code} has no searched weights to reignite: set regnition to False")
    if source is None:
        note(f"{code} has no searched weights: trained from nothing")
    processes = min(trainer.gpus, max(visible_gpus(), 1))
    if processes < trainer.gpus:
        note(f"{trainer.gpus} GPUs are asked for, {visible_gpus()} are here: {processes} process trains")
    return plan(run, code, source, epochs=trainer.epoch, processes=processes, reignite=trainer.reignition)


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
    return code, searched(run, code)
