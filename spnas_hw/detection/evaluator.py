"""The one expensive call: a candidate inherits, trains for a few iterations, and is validated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import spnas_hw.detection.framework  # noqa: F401  fills the registries
from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.detection.detector import model_config
from spnas_hw.detection.inheritance import inherit
from spnas_hw.detection.reignition import reignite
from spnas_hw.detection.runner import running, seed_of
from spnas_hw.detection.runner_config import cosine, fractions, optimization, runner_config
from spnas_hw.detection.weights import load_weights, save_weights
from spnas_hw.errors import RunError
from spnas_hw.schedule import Reignition, Schedule
from spnas_hw.search.loop import Evaluation
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import Detector
from spnas_hw.space.morphism import Morphism


@dataclass(frozen=True)
class ShortTraining:
    """Trains and validates one candidate after another, each in `folder/<trial_id>`: `weights.safetensors`
    and `train.log`.

    Randomness of trial i comes from (seed, i). `on_iteration` is called with (done, total).
    """

    folder: Path
    detector: Detector
    dataset: Dataset
    schedule: Schedule
    size: Size
    seed: int
    on_iteration: Callable[[int, int], None] = lambda done, total: None
    reignition: Reignition | None = None

    def __call__(self, proposal: Proposal, trial_id: int, parent_id: int | None) -> Evaluation:
        """Raises TrainingError with the reason; the whole trace is in the trial's log."""
        morphism, inherits = proposal.morphism, parent_id is not None
        schedule = self._schedule(proposal.share, inherits)
        work_dir = self.folder / f"{trial_id:04d}"
        parent_state = None if parent_id is None else load_weights(self.folder / f"{parent_id:04d}")
        shutil.rmtree(work_dir, ignore_errors=True)  # what an interrupted attempt left
        work_dir.mkdir(parents=True)
        extra: dict[str, float | None] = {}
        if proposal.reignite and parent_state is not None:
            parent_state, extra["top1"] = self._reignite(parent_state, morphism, trial_id, work_dir)
        config = _config(replace(self, schedule=schedule), morphism, work_dir, trial_id, inherits)

        def start(model: nn.Module) -> None:
            if parent_state is not None:
                model.load_state_dict(inherit(parent_state, morphism, model.state_dict()))

        with running(config, work_dir / "train.log", self.on_iteration, start) as runner:
            runner.train()
            metrics = {**fractions(runner.val()), **extra}
            save_weights(runner.model.state_dict(), work_dir, encode(morphism.child))
        return Evaluation(metrics, schedule.iterations)

    def _schedule(self, share: float, inherits: bool) -> Schedule:
        """What has inherited trains for its share; what has not must learn everything first."""
        schedule = self.schedule
        if inherits:
            least = schedule.warmup_iterations + 1
            return replace(schedule, iterations=max(least, round(share * schedule.iterations)))
        return replace(
            schedule, iterations=schedule.start_iterations, learning_rate=schedule.start_learning_rate
        )

    def _reignite(
        self, state: dict[str, Tensor], morphism: Morphism, trial_id: int, work_dir: Path
    ) -> tuple[dict[str, Tensor], float]:
        if self.reignition is None:
            raise RunError("a reignition was asked for, but the configuration has no key reignition")
        seed = seed_of(self.seed, trial_id)
        return reignite(state, morphism.child, self.reignition, work_dir, seed, self.on_iteration)


def _config(
    training: ShortTraining, morphism: Morphism, work_dir: Path, trial_id: int, inherits: bool
) -> dict[str, Any]:
    schedule = training.schedule
    model = model_config(
        morphism.child,
        training.detector,
        rpn_samples=schedule.rpn_samples,
        roi_samples=schedule.roi_samples,
        zero_init_residual=inherits,
    )
    return runner_config(
        work_dir,
        model,
        training.dataset,
        training.size,
        batch=schedule.batch_size,
        workers=schedule.workers,
        iterations=schedule.iterations,
        optimization=optimization(
            {"type": "AdamW", "lr": schedule.learning_rate, "weight_decay": schedule.weight_decay},
            schedule.clip_grad_norm,
            schedule.warmup_iterations,
            cosine(schedule.final_learning_rate, schedule.warmup_iterations, schedule.iterations),
        ),
        seed=seed_of(training.seed, trial_id),
    )
