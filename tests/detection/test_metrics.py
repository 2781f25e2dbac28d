from __future__ import annotations

import torch
from mmdet.registry import METRICS

import spnas_hw.detection.framework  # noqa: F401


def evaluated(
    predicted: list[list[float]], truth: list[tuple[list[float], int]], image_id: int | str = 0
) -> float:
    metric = METRICS.build({"type": "CocoMetricWithIgnored", "metric": "bbox"})
    metric.dataset_meta = {"classes": ("pedestrian", "rider")}
    instances = [{"bbox": box, "bbox_label": 0, "ignore_flag": ignored} for box, ignored in truth]
    boxes = torch.tensor(predicted).reshape(-1, 4)
    sample = {
        "img_id": image_id,
        "ori_shape": (100, 100),
        "instances": instances,
        "gt_instances": {"bboxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
        "pred_instances": {
            "bboxes": boxes,
            "scores": torch.linspace(0.9, 0.5, len(boxes)),
            "labels": torch.zeros(len(boxes), dtype=torch.long),
        },
    }
    metric.process({}, [sample])
    return metric.evaluate(size=1)["coco/bbox_mAP_50"]


PERSON, CROWD, NOTHING = [10.0, 10, 30, 60], [50.0, 10, 90, 60], [40.0, 70, 50, 90]


def test_a_detection_on_an_ignore_region_is_no_fault() -> None:
    assert evaluated([CROWD, PERSON], [(PERSON, 0), (CROWD, 1)]) == 1.0


def test_a_detection_on_nothing_is_one() -> None:
    assert evaluated([NOTHING, PERSON], [(PERSON, 0), (CROWD, 1)]) < 0.6


def test_an_ignored_person_need_not_be_found() -> None:
    assert evaluated([PERSON], [(PERSON, 0), (CROWD, 1)]) == 1.0
    assert evaluated([PERSON], [(PERSON, 0), (CROWD, 0)]) < 0.6


def test_ids_of_images_may_be_text() -> None:
    """VOC's ids are such."""
    for image_id in ("2008_000008", "000005"):
        assert evaluated([CROWD, PERSON], [(PERSON, 0), (CROWD, 1)], image_id) == 1.0
