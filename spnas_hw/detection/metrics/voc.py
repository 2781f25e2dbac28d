"""PASCAL VOC's average precision at an overlap of 0.5, in both of its modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation.functional import eval_map
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

MODES = {"AP50_11points": "11points", "AP50_area": "area"}


@METRICS.register_module()
class VocMetric(BaseMetric):
    """`voc/AP50_11points` (recalls 0, 0.1, ..., 1: the challenge to 2009) and `voc/AP50_area` (all recalls:
    from 2010 on), means over the classes that occur, fractions of 1. Never compare one with the other.

    Boxes are inclusive pixels as in the challenge's own code. Difficult objects (`ignore_flag` 1) need not be
    found. Needs `instances` among the meta keys of the validation pipeline.
    """

    default_prefix = "voc"

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        classes = len(self.dataset_meta["classes"])
        for sample in data_samples:
            found = {name: np.asarray(sample["pred_instances"][name].cpu()) for name in FOUND}
            rows = np.hstack([found["bboxes"], found["scores"][:, None]])
            detected = [rows[found["labels"] == label] for label in range(classes)]
            self.results.append((_truth(sample["instances"]), detected))

    def compute_metrics(self, results: list[tuple[dict[str, Any], list[Any]]]) -> dict[str, float]:
        truth, detected = [one[0] for one in results], [one[1] for one in results]
        return {
            name: float(
                eval_map(
                    detected,
                    truth,
                    iou_thr=0.5,
                    eval_mode=mode,
                    use_legacy_coordinate=True,
                    logger="silent",
                    nproc=1,
                )[0]
            )
            for name, mode in MODES.items()
        }


FOUND = ("bboxes", "scores", "labels")


def _truth(instances: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """mmdet's arrays of one image."""
    arrays: dict[str, Any] = {}
    for suffix, ignored in (("", 0), ("_ignore", 1)):
        things = [thing for thing in instances if thing["ignore_flag"] == ignored]
        arrays[f"bboxes{suffix}"] = np.array([t["bbox"] for t in things], dtype=np.float32).reshape(-1, 4)
        arrays[f"labels{suffix}"] = np.array([t["bbox_label"] for t in things], dtype=np.int64)
    return arrays
