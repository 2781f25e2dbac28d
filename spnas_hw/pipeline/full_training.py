"""Trains one network of a run fully, in `fullytrain/` of its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from spnas_hw.errors import InvalidConfig, RunError, TrainingError
from spnas_hw.pipeline.search import Same, TrialProgress, copy_trial
from spnas_hw.run import FULL_TRAINING, JOURNAL, Run
from spnas_hw.schedule import Training, training_of
from spnas_hw.search.journal import Journal, Trial, read_journal
from spnas_hw.search.loop import Evaluation, Evaluator
from spnas_hw.search.loop import run as run_search
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged


@dataclass(frozen=True)
class Plan:
    """What is trained, from what, how: `source` is the trial of the run whose weights it starts from."""

    code: str
    source: Trial | None
    training: Training
    processes: int = 1
    reignite: bool = False


def plan(
    run: Run,
    code: str,
    source: Trial | None,
    *,
    epochs: int | None,
    processes: int = 1,
    reignite: bool = False,
    pretrained: Path | None = None,
) -> Plan:
    """The training that a run's configuration asks for, with what is given here in its place.

    Raises:
        InvalidConfig: epochs are not told; there is nothing to reignite, or nothing to do it with.
    """
    training = run.config.training
    if training is None:
        if epochs is None:
            raise InvalidConfig("the configuration has no key training: give --epochs")
        training = training_of(run.config.schedule, epochs, source is not None)
    try:
        training = training if epochs is None else replace(training, epochs=epochs)
    except ValueError as error:
        raise InvalidConfig(f"{epochs} epochs do not fit the configured training: {error}") from error
    if (pretrained := pretrained or training.pretrained) is not None:
        if not pretrained.is_file():
            raise InvalidConfig(f"{pretrained} is no file: pretrained is the checkpoint of a ResNet")
        training = replace(training, pretrained=pretrained.resolve())
    if reignite and source is None:
        raise InvalidConfig(f"{code} has no searched weights to reignite")
    if reignite and run.config.reignition is None:
        raise InvalidConfig("a reignition needs the key reignition, which names the images")
    if training.pretrained is not None and source is not None:
        raise InvalidConfig(f"{code} starts from its searched weights: leave pretrained out")
    return Plan(code, source, training, processes, reignite)


def fully_train(run: Run, plan: Plan, *, progress: TrialProgress, on_trial: Callable[[Trial], None]) -> Trial:
    """Trains what is planned; one that was killed goes on where its last checkpoint is, one that ended is not
    repeated.

    Raises:
        RunError: the folder holds another training, or this one failed.
    """
    check(run, plan)
    folder = run.folder / FULL_TRAINING
    journal = Journal(folder / JOURNAL, _header(plan))
    if plan.source is not None and not journal.trials:
        copy_trial(run.trial_folder(plan.source), folder / "0000")
        journal.append(replace(plan.source, trial_id=0, parent_id=None, parent_code=None))
    if (done := run.fully_trained()) is not None:
        return done
    run_search(
        Same(Proposal(unchanged(decode(plan.code)), reignite=plan.reignite)),
        _or_end(evaluator(run, plan, folder, progress)),
        journal,
        price=run.price,
        max_sample=len(journal.trials) + 1,
        seed=run.config.seed,
        phase="serial" if plan.source is None else plan.source.phase,
        latency_source=run.latency_source,
        on_trial=on_trial,
    )
    return journal.trials[-1]


def _or_end(evaluate: Evaluator) -> Evaluator:
    """A failure is no trial, unlike in a search: what was trained so far is gone on with."""

    def evaluate_or_end(proposal: Proposal, trial_id: int, parent_id: int | None) -> Evaluation:
        try:
            return evaluate(proposal, trial_id, parent_id)
        except TrainingError as error:
            why = f"the full training ended: {error}"
            raise RunError(f"{why}; the same command goes on at its last checkpoint") from error

    return evaluate_or_end


def check(run: Run, plan: Plan) -> None:
    """Refuses at once what could not be trained.

    Raises:
        RunError: the run holds a training of something else, or in another way.
        DataError: the checkpoint to start from is of another network.
        TrainingError: the settings do not suit the data or this machine.
    """
    from spnas_hw.detection.datasets import train_images
    from spnas_hw.detection.training import visible_gpus

    plan.training.require_possible(train_images(run.config.dataset), plan.processes, visible_gpus())
    if (pretrained := plan.training.pretrained) is not None:
        from spnas_hw.detection.pretrained import load_backbone

        load_backbone(pretrained, decode(plan.code))
    path = run.folder / FULL_TRAINING / JOURNAL
    if path.exists():
        found, wanted = read_journal(path)[0], _header(plan)
        if changed := sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key)):
            what = ", ".join(changed)
            raise RunError(
                f"{path.parent} holds a training with another {what}: remove it, or choose a --run"
            )


def _header(plan: Plan) -> dict[str, Any]:
    """What makes a training this one."""
    settings = json.loads(json.dumps(asdict(plan.training), default=str))
    source = plan.source and plan.source.trial_id
    own = {"code": plan.code, "from_trial": source, "processes": plan.processes, "reignite": plan.reignite}
    return {**own, **settings}


def evaluator(run: Run, plan: Plan, folder: Path, progress: TrialProgress) -> Evaluator:
    """What trains and validates the network, in `folder/<trial_id>`."""
    from spnas_hw.detection.training import FullTraining

    config = run.config
    return lambda proposal, trial_id, parent_id: FullTraining(
        folder,
        config.detector,
        config.dataset,
        plan.training,
        config.size,
        config.seed,
        plan.processes,
        lambda done, total: progress(trial_id, done, total),
        config.reignition,
    )(proposal, trial_id, parent_id)


def searched(run: Run, code: str) -> Trial | None:
    """The latest trial of the run that trained a network and still has its weights."""
    for trial in reversed(run.trials()):
        if trial.code == code and trial.mean_ap is not None and run.has_weights(trial):
            return trial
    return None
