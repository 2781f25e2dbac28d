"""The one expensive call: a candidate inherits, trains for a few iterations, and is validated."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import spnas_hw.detection.framework  # noqa: F401  fills the registries
from spnas_hw.config import Dataset, Reignition, Schedule
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets import mmdet_dataset
from spnas_hw.detection.detector import model_config
from spnas_hw.detection.inheritance import inherit
from spnas_hw.detection.reignition import reignite
from spnas_hw.detection.runner import running, seed_of
from spnas_hw.errors import DataError, RunError
from spnas_hw.search.loop import Evaluation
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import Detector
from spnas_hw.space.morphism import Morphism

METRICS = {
    "mAP": "coco/bbox_mAP",
    "AP50": "coco/bbox_mAP_50",
    "AP75": "coco/bbox_mAP_75",
    "AP_small": "coco/bbox_mAP_s",
    "AP_medium": "coco/bbox_mAP_m",
    "AP_large": "coco/bbox_mAP_l",
}


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
            metrics = {**_metrics(runner.val()), **extra}
            _save(runner.model.state_dict(), work_dir, encode(morphism.child))
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


def load_weights(trial_folder: Path) -> dict[str, Tensor]:
    """The trained state dict of a trial. Raises RunError where there is none or it is damaged."""
    path = trial_folder / "weights.safetensors"
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: the trial's weights were removed or never written") from error
    except Exception as error:  # safetensors raises its own kind, OSError and ValueError
        raise RunError(f"{path} cannot be read ({error}): train this trial again") from error


def _config(
    training: ShortTraining, morphism: Morphism, work_dir: Path, trial_id: int, inherits: bool
) -> dict[str, Any]:
    schedule = training.schedule
    height, width = training.size
    resize = {"type": "Resize", "scale": (width, height), "keep_ratio": False}
    packed = {"type": "PackDetInputs"}
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    train_pipeline = [*load, resize, {"type": "RandomFlip", "prob": 0.5}, packed]
    val_pipeline = [load[0], resize, load[1], {**packed, "meta_keys": meta}]
    sampler = {"type": "InfiniteSampler", "shuffle": True}
    model = model_config(
        morphism.child,
        training.detector,
        rpn_samples=schedule.rpn_samples,
        roi_samples=schedule.roi_samples,
        zero_init_residual=inherits,
    )
    return {
        "default_scope": "mmdet",
        "experiment_name": f"{work_dir.resolve()}",
        "work_dir": str(work_dir),
        "model": model,
        "train_dataloader": _loader(training, "train", train_pipeline, schedule.batch_size, sampler),
        "val_dataloader": _loader(
            training, "val", val_pipeline, 1, {"type": "DefaultSampler", "shuffle": False}
        ),
        "val_evaluator": {"type": "CocoMetricWithIgnored", "metric": "bbox"},
        "train_cfg": {
            "type": "IterBasedTrainLoop",
            "max_iters": schedule.iterations,
            "val_begin": schedule.iterations + 1,  # validated once, afterwards
        },
        "val_cfg": {"type": "ValLoop"},
        **_optimization(schedule),
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 10, "log_metric_by_epoch": False},
            "checkpoint": None,
        },
        "visualizer": {"type": "Visualizer", "vis_backends": []},
        "randomness": {"seed": seed_of(training.seed, trial_id)},
        "log_processor": {"by_epoch": False},
    }


def _loader(
    training: ShortTraining, split: str, pipeline: list[Any], batch: int, sampler: dict[str, Any]
) -> dict[str, Any]:
    workers = training.schedule.workers
    return {
        "batch_size": batch,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": sampler,
        "dataset": mmdet_dataset(training.dataset, split, pipeline),
    }


def _optimization(schedule: Schedule) -> dict[str, Any]:
    optimizer = {"type": "AdamW", "lr": schedule.learning_rate, "weight_decay": schedule.weight_decay}
    warmup = {
        "type": "LinearLR",
        "start_factor": 0.01,
        "by_epoch": False,
        "begin": 0,
        "end": schedule.warmup_iterations,
    }
    cosine = {
        "type": "CosineAnnealingLR",
        "eta_min": schedule.final_learning_rate,
        "by_epoch": False,
        "begin": schedule.warmup_iterations,
        "end": schedule.iterations,
        "T_max": schedule.iterations - schedule.warmup_iterations,
    }
    return {
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": optimizer,
            "clip_grad": {"max_norm": schedule.clip_grad_norm},
            "paramwise_cfg": {"norm_decay_mult": 0.0},
        },
        "param_scheduler": [warmup, cosine],
    }


def _metrics(found: dict[str, float]) -> dict[str, float | None]:
    """COCO numbers as fractions; None where the validation set has no such object (printed as -1).

    Raises DataError: it has no object at all.
    """
    if found[METRICS["mAP"]] < 0:
        raise DataError("the validation images hold no object of the classes: there is no mAP to compare")
    return {name: None if found[key] < 0 else float(found[key]) for name, key in METRICS.items()}


def _save(state: dict[str, Tensor], work_dir: Path, code: str) -> None:
    partial = work_dir / "weights.partial"
    save_file({k: v.contiguous() for k, v in state.items()}, partial, {"code": code})
    os.replace(partial, work_dir / "weights.safetensors")
