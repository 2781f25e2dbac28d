"""COCO's box metric with ignore regions, in full precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faster_coco_eval import COCO, COCOeval_faster
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric

NUMBERS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
"""In the order of COCO's summary."""
DETECTIONS = (100, 300, 1000)
"""Per image, as in mmdet's metric: the last counts."""


@METRICS.register_module()
class CocoMetricWithIgnored(BaseMetric):  # type: ignore[misc]
    """faster-coco-eval's numbers where `ignore_flag` marks COCO's crowds: matching one is no fault.

    mmdet's own knows no ignored boxes, and rounds to three digits, which hides what an export changed and
    makes ties of candidates. This one needs `instances` among the meta keys of the validation pipeline. A
    number that no object stands behind is -1.
    """

    default_prefix = "coco"

    def process(self, data_batch: dict[str, Any], data_samples: Sequence[dict[str, Any]]) -> None:
        for sample in data_samples:
            height, width = sample["ori_shape"][:2]
            found = {name: tensor.cpu().numpy() for name, tensor in sample["pred_instances"].items()}
            self.results.append(((int(width), int(height)), sample["instances"], found))

    def compute_metrics(self, results: list[Any]) -> dict[str, float]:
        """Images are numbered anew: VOC's ids are text, which COCO's format does not know."""
        images = [
            {"id": number, "width": width, "height": height}
            for number, ((width, height), _, _) in enumerate(results)
        ]
        truth = [
            {
                **_box(thing["bbox"]),
                "image_id": number,
                "category_id": int(thing["bbox_label"]),
                "iscrowd": int(thing["ignore_flag"]),
            }
            for number, (_, things, _) in enumerate(results)
            for thing in things
        ]
        annotations = [{"id": number, **thing} for number, thing in enumerate(truth, 1)]
        categories = [{"id": label, "name": name} for label, name in enumerate(self.dataset_meta["classes"])]
        coco = COCO({"images": images, "annotations": annotations, "categories": categories})
        found = coco.loadRes([row for number, (*_, one) in enumerate(results) for row in _rows(number, one)])
        evaluation = COCOeval_faster(coco, found, "bbox")
        evaluation.params.maxDets = list(DETECTIONS)
        evaluation.run()
        return {f"bbox_{name}": float(evaluation.stats[place]) for place, name in enumerate(NUMBERS)}


def _rows(image_id: int, found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**_box(box), "image_id": image_id, "category_id": int(label), "score": float(score)}
        for box, score, label in zip(found["bboxes"], found["scores"], found["labels"], strict=True)
    ]


def _box(corners: Sequence[float]) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(value) for value in corners)
    return {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
