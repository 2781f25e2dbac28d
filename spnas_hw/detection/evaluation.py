"""How good a detector is on a data set, whatever runs it: PyTorch, ONNX Runtime or an engine.

All of them get the same arrays and are told the same metrics, those of the validation while training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS, METRICS
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from numpy.typing import NDArray

import spnas_hw.detection.framework  # noqa: F401  fills the registries
from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets import mmdet_dataset
from spnas_hw.detection.datasets.ecp import find_images
from spnas_hw.detection.datasets.ecp_detections import Detections
from spnas_hw.detection.inference import Array, load_image, resized
from spnas_hw.detection.runner_config import metrics_of, numbers
from spnas_hw.errors import DataError

Detect = Callable[[Array], tuple[Array, Array, NDArray[np.int64]]]
"""A preprocessed image [1, 3, H, W] -> boxes [n, 4] in its pixels, scores [n], labels [n]."""


@dataclass(frozen=True)
class Image:
    """One image of a split: mmdet's `info` of it, or None where it has no labels."""

    path: Path
    info: Mapping[str, Any] | None


def images_of(dataset: Dataset, split: str) -> list[Image]:
    """The images of `train`, `val`, or of ECP's `test`, which has no labels. Raises DataError."""
    if split == "test":
        if dataset.type != "ecp":
            raise DataError(f"{dataset.type} data has no split test here: give train or val")
        return [Image(path, None) for path in find_images(dataset.root, split)]
    loaded = DATASETS.build(mmdet_dataset(dataset, split, []))
    infos = [loaded.get_data_info(index) for index in range(len(loaded))]
    return [Image(Path(info["img_path"]), info) for info in infos]


def detections(
    images: list[Image], size: Size, detect: Detect, progress: Callable[[float, int], None]
) -> Iterator[tuple[Image, Detections, Size]]:
    """What is detected in each image, boxes in its own pixels and within it, and its (height, width)."""
    for done, image in enumerate(images, 1):
        picture = load_image(image.path)
        own = picture.shape[:2]
        yield image, in_picture(detect(resized(picture, size)), own, size), own
        progress(done, len(images))


def in_picture(found: tuple[Array, Array, NDArray[np.int64]], own: Size, size: Size) -> Detections:
    """What was detected in an image of `size`, within the picture of size `own` that it was made from."""
    boxes, scores, labels = found
    scale = np.array([own[1] / size[1], own[0] / size[0]] * 2)
    inside = np.clip(boxes * scale, 0, [own[1], own[0]] * 2)
    return Detections(labels.astype(np.int64), inside, scores.astype(np.float64))


class Metrics:
    """The metrics of a data set, told image by image."""

    def __init__(self, dataset: Dataset, classes: tuple[str, ...], first: Image) -> None:
        """`first` is one of the images, all of which have its size where that matters."""
        assert first.info is not None
        size = (first.info["height"], first.info["width"])
        self._evaluator = Evaluator([METRICS.build(config) for config in metrics_of(dataset, size)])
        self._evaluator.dataset_meta = {"classes": classes}
        self._images = 0
        MMLogger.get_current_instance().setLevel("WARNING")  # the metrics log to it, on the terminal

    def add(self, image: Image, found: Detections, size: Size) -> None:
        """One image of (height, width) `size`."""
        assert image.info is not None
        tensors = {
            "bboxes": torch.from_numpy(found.boxes).float(),
            "scores": torch.from_numpy(found.scores).float(),
            "labels": torch.from_numpy(found.labels),
        }
        sample = {
            "img_id": image.info["img_id"],
            "img_path": str(image.path),
            "ori_shape": size,
            "instances": image.info["instances"],
            "pred_instances": tensors,
        }
        self._evaluator.process([sample])
        self._images += 1

    def all(self) -> dict[str, float | None]:
        """Their names and values, fractions of 1. Raises DataError: there was nothing to find."""
        return numbers(self._evaluator.evaluate(self._images))
