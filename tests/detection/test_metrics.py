from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS

import spnas_hw.detection.framework  # noqa: F401


def evaluated(
    predicted: list[list[float]], truth: list[tuple[list[float], int]], image_id: int | str = 0
) -> float:
    metric = METRICS.build({"type": "CocoMetricWithIgnored"})
    metric.dataset_meta = {"classes": ("pedestrian", "rider")}
    instances = [{"bbox": box, "bbox_label": 0, "ignore_flag": ignored} for box, ignored in truth]
    boxes = torch.tensor(predicted).reshape(-1, 4)
    sample = {
        "img_id": image_id,
        "ori_shape": (100, 100),
        "instances": instances,
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


@pytest.mark.parametrize("seed", range(3))
def test_it_is_mmdets_metric_but_for_the_rounding(seed: int) -> None:
    """Where nothing is ignored."""
    rng = np.random.default_rng(seed)
    metrics = [METRICS.build({"type": kind}) for kind in ("CocoMetricWithIgnored", "FasterCocoMetric")]
    for number in range(4):
        corners = rng.uniform(0, 150, (8, 2))
        truth = np.concatenate([corners, corners + rng.uniform(5, 120, (8, 2))], axis=1)
        labels = rng.integers(0, 2, 8)
        boxes = np.concatenate([truth + rng.normal(0, 4, truth.shape), truth[:3] + 30])
        sample = {
            "img_id": number,
            "ori_shape": (300, 300),
            "instances": [
                {"bbox": box.tolist(), "bbox_label": int(label), "ignore_flag": 0}
                for box, label in zip(truth, labels, strict=True)
            ],
            "gt_instances": {"bboxes": torch.from_numpy(truth), "labels": torch.from_numpy(labels)},
            "pred_instances": {
                "bboxes": torch.from_numpy(boxes),
                "scores": torch.from_numpy(rng.uniform(0, 1, 11)),
                "labels": torch.from_numpy(np.concatenate([labels, labels[:3]])),
            },
        }
        for metric in metrics:
            metric.dataset_meta = {"classes": ("pedestrian", "rider")}
            metric.process({}, [sample])
    ours, theirs = (metric.evaluate(size=4) for metric in metrics)
    assert ours == pytest.approx(theirs, abs=5.1e-4) and 0.1 < ours["coco/bbox_mAP"] < 0.9


def test_nothing_detected_is_zero_and_nothing_to_detect_is_none_of_it() -> None:
    assert evaluated([], [(PERSON, 0)]) == 0.0
    assert evaluated([PERSON], []) == -1.0
