"""COCO's box metric with ignore regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.evaluation.metrics import FasterCocoMetric
from mmdet.registry import METRICS

BOX = ("bbox", "bbox_label", "ignore_flag")
"""Of an instance; COCO's masks are not needed."""


@METRICS.register_module()
class CocoMetricWithIgnored(FasterCocoMetric):
    """faster-coco-eval's numbers where `ignore_flag` marks COCO's crowds: matching one is no fault.

    mmdet's own takes its truth from `gt_instances`, which have no ignored boxes. This one needs
    `instances` among the meta keys of the validation pipeline.
    """

    def process(self, data_batch: dict[str, Any], data_samples: Sequence[dict[str, Any]]) -> None:
        super().process(data_batch, data_samples)
        for (truth, _), sample in zip(self.results[-len(data_samples) :], data_samples, strict=True):
            truth["anns"] = [{name: thing[name] for name in BOX} for thing in sample["instances"]]

    def compute_metrics(self, results: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, float]:
        """Images are numbered anew: VOC's ids are text, which COCO's format does not know."""
        for number, (truth, found) in enumerate(results):
            truth["img_id"] = found["img_id"] = number
        return super().compute_metrics(results)
