"""mmengine's configuration of a training, short or full, and what its validation tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets import mmdet_dataset
from spnas_hw.detection.metrics.lamr import SIZE
from spnas_hw.errors import DataError

COCO = {"type": "CocoMetricWithIgnored"}
METRICS = {
    "mAP": "coco/bbox_mAP",
    "AP50": "coco/bbox_mAP_50",
    "AP75": "coco/bbox_mAP_75",
    "AP_small": "coco/bbox_mAP_s",
    "AP_medium": "coco/bbox_mAP_m",
    "AP_large": "coco/bbox_mAP_l",
}


def runner_config(
    work_dir: Path,
    model: dict[str, Any],
    dataset: Dataset,
    size: Size,
    *,
    batch: int,
    workers: int,
    iterations: int,
    optimization: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Trains for `iterations` on batches of `batch` images of `size` (height, width), validated once, after
    the last."""
    height, width = size
    resize = {"type": "Resize", "scale": (width, height), "keep_ratio": False}
    packed = {"type": "PackDetInputs"}
    meta = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    train_pipeline = [*load, resize, {"type": "RandomFlip", "prob": 0.5}, packed]
    val_pipeline = [load[0], resize, load[1], {**packed, "meta_keys": meta}]
    return {
        "default_scope": "mmdet",
        "experiment_name": f"{work_dir.resolve()}",
        "work_dir": str(work_dir),
        "model": model,
        "train_dataloader": {
            **_loader(dataset, "train", train_pipeline, workers),
            "batch_size": batch,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
        },
        "val_dataloader": {
            **_loader(dataset, "val", val_pipeline, workers),
            "batch_size": 1,
            "sampler": {"type": "DefaultSampler", "shuffle": False},
        },
        "val_evaluator": [COCO],
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iterations, "val_begin": iterations + 1},
        "val_cfg": {"type": "ValLoop"},
        **optimization,
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 10, "log_metric_by_epoch": False},
            "checkpoint": None,
        },
        "visualizer": {"type": "Visualizer", "vis_backends": []},
        "randomness": {"seed": seed},
        "log_processor": {"by_epoch": False},
    }


def optimization(
    optimizer: dict[str, Any],
    clip_grad_norm: float | None,
    warmup_iterations: int,
    decay: dict[str, Any],
    amp: bool = False,
) -> dict[str, Any]:
    """An optimiser that decays no normalisation, a linear warm-up, and the scheduler that follows it."""
    warmup = {
        "type": "LinearLR",
        "start_factor": 0.01,
        "by_epoch": False,
        "begin": 0,
        "end": warmup_iterations,
    }
    return {
        "optim_wrapper": {
            "type": "AmpOptimWrapper" if amp else "OptimWrapper",
            "optimizer": optimizer,
            "clip_grad": None if clip_grad_norm is None else {"max_norm": clip_grad_norm},
            "paramwise_cfg": {"norm_decay_mult": 0.0},
        },
        "param_scheduler": [warmup, {**decay, "by_epoch": False}],
    }


def cosine(final_learning_rate: float, warmup_iterations: int, iterations: int) -> dict[str, Any]:
    """From the end of the warm-up to the last iteration."""
    return {
        "type": "CosineAnnealingLR",
        "eta_min": final_learning_rate,
        "begin": warmup_iterations,
        "end": iterations,
        "T_max": iterations - warmup_iterations,
    }


def metrics_of(dataset: Dataset, size: Size) -> list[dict[str, Any]]:
    """All metrics of a data set: COCO's always, LAMR of the persons, VOC's own.

    Args:
        size: height and width of synthetic streets.
    """
    found: list[dict[str, Any]] = [COCO]
    if dataset.type in ("ecp", "streets"):
        found.append({"type": "LAMRMetric", "size": SIZE if dataset.type == "ecp" else size})
    if dataset.type == "voc":
        found.append({"type": "VocMetric"})
    return found


def numbers(found: dict[str, float]) -> dict[str, float | None]:
    """What `metrics_of` told: COCO's under their short names, the others under their own."""
    own = {name: value for name, value in found.items() if not name.startswith("coco/")}
    return {**fractions(found), **own}


def fractions(found: dict[str, float]) -> dict[str, float | None]:
    """COCO numbers as fractions; None where the validation set has no such object (printed as -1).

    Raises DataError: it has no object at all.
    """
    if found[METRICS["mAP"]] < 0:
        raise DataError("the validation images hold no object of the classes: there is no mAP to compare")
    return {name: None if found[key] < 0 else float(found[key]) for name, key in METRICS.items()}


def _loader(dataset: Dataset, split: str, pipeline: list[Any], workers: int) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "dataset": mmdet_dataset(dataset, split, pipeline),
    }
