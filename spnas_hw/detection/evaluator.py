"""The one expensive call: a candidate inherits, trains for a few iterations, and is validated."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import os
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from safetensors.torch import load_file, save_file
from torch import Tensor

import spnas_hw.detection.framework  # noqa: F401  fills the registries
from spnas_hw.config import Dataset, Reignition, Schedule
from spnas_hw.cost.workload import Size
from spnas_hw.detection.detector import faster_rcnn
from spnas_hw.detection.inheritance import inherit
from spnas_hw.errors import RunError, TrainingError
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
        runner = None
        extra: dict[str, float | None] = {}
        try:
            if proposal.reignite and parent_state is not None:
                parent_state, extra["top1"] = self._reignite(parent_state, morphism, trial_id, work_dir)
            config = _config(replace(self, schedule=schedule), morphism, work_dir, trial_id, inherits)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                runner = Runner.from_cfg(config)  # it would log to the terminal
            _log_to(runner, work_dir / "train.log")
            runner.register_hook(_Inherit(parent_state, morphism), priority="VERY_LOW")
            runner.register_hook(_Progress(self.on_iteration), priority="LOWEST")
            runner.train()
            metrics = {**_metrics(runner.val()), **extra}
            _save(runner.model.state_dict(), work_dir, encode(morphism.child))
        except (ArithmeticError, AssertionError, RuntimeError, ValueError) as error:  # what training can do
            with open(work_dir / "train.log", "a") as log:
                log.write(traceback.format_exc())
            reason = str(error).strip().splitlines()
            raise TrainingError(f"{type(error).__name__}: {reason[0] if reason else 'no message'}") from error
        finally:
            if runner is not None:
                _close_log(runner, work_dir)
            del runner
            gc.collect()
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
        from spnas_hw.detection.reignition import reignite

        seed = _seed(self.seed, trial_id)
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


class _Inherit(Hook):
    """Gives the initialised model what it inherits, just before the first iteration."""

    def __init__(self, parent_state: dict[str, Tensor] | None, morphism: Morphism) -> None:
        self.parent_state, self.morphism = parent_state, morphism

    def before_train(self, runner: Runner) -> None:
        if self.parent_state is not None:
            state = inherit(self.parent_state, self.morphism, runner.model.state_dict())
            runner.model.load_state_dict(state)


class _Progress(Hook):
    def __init__(self, report: Callable[[int, int], None]) -> None:
        self.report = report

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if outputs is not None and not bool(torch.isfinite(outputs["loss"])):
            raise FloatingPointError(f"the loss is not finite at iteration {runner.iter + 1}")
        self.report(runner.iter + 1, runner.max_iters)


def _config(
    training: ShortTraining, morphism: Morphism, work_dir: Path, trial_id: int, inherits: bool
) -> dict[str, Any]:
    from mmengine.config import Config

    schedule = training.schedule
    height, width = training.size
    resize = {"type": "Resize", "scale": (width, height), "keep_ratio": False}
    packed = {"type": "PackDetInputs"}
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    train_pipeline = [*load, resize, {"type": "RandomFlip", "prob": 0.5}, packed]
    val_pipeline = [load[0], resize, load[1], {**packed, "meta_keys": meta}]
    sampler = {"type": "InfiniteSampler", "shuffle": True}
    model = faster_rcnn(
        morphism.child,
        training.detector,
        rpn_samples=schedule.rpn_samples,
        roi_samples=schedule.roi_samples,
        zero_init_residual=inherits,
    )
    return Config(
        {
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
            "randomness": {"seed": _seed(training.seed, trial_id)},
            "log_processor": {"by_epoch": False},
        }
    )


def _loader(
    training: ShortTraining, split: str, pipeline: list[Any], batch: int, sampler: dict[str, Any]
) -> dict[str, Any]:
    dataset = {
        "type": "EuroCityPersons",
        "data_root": str(training.dataset.root),
        "split": split,
        "min_height_px": training.dataset.min_height_px,
        "pipeline": pipeline,
    }
    workers = training.schedule.workers
    return {
        "batch_size": batch,
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": sampler,
        "dataset": dataset,
    }


def _seed(seed: int, trial_id: int) -> int:
    """A seed of 32 bits, which is what numpy's and torch's global generators take."""
    return int(np.random.SeedSequence([seed, trial_id]).generate_state(1)[0])


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
    """COCO numbers as fractions; None where the validation set has no such object (printed as -1)."""
    return {name: None if found[key] < 0 else float(found[key]) for name, key in METRICS.items()}


def _save(state: dict[str, Tensor], work_dir: Path, code: str) -> None:
    partial = work_dir / "weights.partial"
    save_file({k: v.contiguous() for k, v in state.items()}, partial, {"code": code})
    os.replace(partial, work_dir / "weights.safetensors")


def _log_to(runner: Runner, path: Path) -> None:
    """One log file a trial and nothing on the terminal."""
    for handler in list(runner.logger.handlers):
        runner.logger.removeHandler(handler)
        handler.close()
    shutil.rmtree(runner.log_dir, ignore_errors=True)
    for dump in path.parent.glob("*.py"):  # the configuration, which the journal has
        dump.unlink()
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    runner.logger.addHandler(handler)


def _close_log(runner: Runner, work_dir: Path) -> None:
    for handler in list(runner.logger.handlers):
        runner.logger.removeHandler(handler)
        handler.close()
