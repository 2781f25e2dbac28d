"""What is shipped of a run: a trained network's whole detector as ONNX, in a precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from spnas_hw.errors import InvalidConfig, RunError
from spnas_hw.run import FULL_TRAINING, Run
from spnas_hw.search.journal import Trial
from spnas_hw.space.codec import decode

if TYPE_CHECKING:
    from torch import nn

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]


def weights_of(run: Run, baseline: bool, fully_trained: bool) -> tuple[Trial, Path]:
    """The winner of a run, its trained baseline, or the network that was trained fully, and the folder of its
    weights. Raises RunError: there is none."""
    if baseline and fully_trained:
        raise InvalidConfig("--baseline and --fully-trained exclude each other")
    home, trial = run.folder / "trials", run.winner() if not (baseline or fully_trained) else None
    if baseline:
        home, trial = run.folder / "baseline", run.baseline()
    elif fully_trained:
        home, trial = run.folder / FULL_TRAINING, run.fully_trained()
    if trial is None:
        how = "no trained baseline: search with --baseline" if baseline else "no fully trained network"
        raise RunError(f"{run.folder} has {how}")
    return trial, home / f"{trial.trial_id:04d}"


def trained_detector(run: Run, trial: Trial, weights: Path) -> nn.Module:
    """The detector of a trial with the weights in the folder `weights`, in eval mode. Raises RunError."""
    from spnas_hw.detection.inference import load_detector

    return load_detector(weights, decode(trial.code), run.config.detector)


def shipped(run: Run, model: nn.Module, precision: str, calibration_images: int = 128) -> onnx.ModelProto:
    """The whole of a trained detector of the run. Raises ExportError."""
    from spnas_hw.export.detector import detector_onnx

    exported = detector_onnx(model, run.config.detector, run.config.size)
    return in_precision(exported, precision, _calibration(run, calibration_images))


def in_precision(
    model: onnx.ModelProto, precision: str, images: Callable[[], Iterator[NDArray[np.float32]]]
) -> onnx.ModelProto:
    """A FLOAT32 detector with its precision written into the graph; `images` are asked for by INT8 alone."""
    from spnas_hw.export.quantization import quantized
    from spnas_hw.export.workloads import PRECISIONS

    return quantized(model, images()) if precision == "int8" else PRECISIONS[precision](model)


def _calibration(run: Run, count: int) -> Callable[[], Iterator[NDArray[np.float32]]]:
    """Training images, evenly spread over the split."""

    def images() -> Iterator[NDArray[np.float32]]:
        from spnas_hw.detection.datasets import image_paths
        from spnas_hw.detection.inference import preprocess

        paths = image_paths(run.config.dataset, "train")
        for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int):
            yield preprocess(paths[place], run.config.size)

    return images
