"""The log-average miss rate in mmdet's validation loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from torch import Tensor

from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets.ecp import CLASSES, TIMES, label_path, read_objects
from spnas_hw.detection.datasets.ecp_detections import Detections
from spnas_hw.detection.metrics.lamr import evaluate
from spnas_hw.errors import DataError


@METRICS.register_module()
class LAMRMetric(BaseMetric):
    """LAMR of EuroCity Persons or of synthetic streets, against the label files beside the images.

    Gives `lamr/{time}_{class}_{subset}` with `ignore_other_vru` False, as on the benchmark's server, and
    `..._ignore_other_vru` with True; day and night apart. What has no ground truth is left out. Needs
    `img_path` and `ori_shape` among the meta keys of the validation pipeline.

    Args:
        size: height and width of every image; (1024, 1920) is the benchmark's.
    """

    default_prefix = "lamr"

    def __init__(self, *args: Any, size: Size, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.size = (size[0], size[1])

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Raises DataError where an image has another size or no time of day."""
        for sample in data_samples:
            image, shape = Path(sample["img_path"]), tuple(sample["ori_shape"][:2])
            if shape != self.size:
                raise DataError(
                    f"{image} is {shape[0]}x{shape[1]}, LAMR was asked for {self.size[0]}x{self.size[1]}"
                )
            if _time(image) not in TIMES:
                raise DataError(f"{image} lies in no folder {'|'.join(TIMES)}/img/SPLIT/CITY")
            self.results.append((image, _detections(sample["pred_instances"])))

    def compute_metrics(self, results: list[tuple[Path, Detections]]) -> dict[str, float]:
        metrics = {}
        for time in TIMES:
            of_time = sorted((one for one in results if _time(one[0]) == time), key=lambda one: one[0].name)
            images = [(read_objects(label_path(image)), found) for image, found in of_time]
            for result in evaluate(images, self._classes(), self.size) if images else ():
                flag = "_ignore_other_vru" * result.ignore_other_vru
                if result.lamr is not None:
                    metrics[f"{time}_{result.class_name}_{result.subset}{flag}"] = result.lamr
        return metrics

    def _classes(self) -> tuple[str, ...]:
        """Those of the data set, whose labels are indices into `CLASSES`."""
        classes = tuple(self.dataset_meta["classes"])
        if classes != CLASSES:
            raise DataError(f"LAMR is of {', '.join(CLASSES)}, the data set has {', '.join(classes)}")
        return classes


def _time(image: Path) -> str:
    return image.parents[3].name if len(image.parents) > 3 else ""


def _detections(found: dict[str, Tensor]) -> Detections:
    """mmdet's tensors of one image as arrays."""
    labels, boxes, scores = (found[name].cpu().numpy() for name in ("labels", "bboxes", "scores"))
    return Detections(labels.astype(np.int64), boxes.astype(np.float64), scores.astype(np.float64))
