"""VOC's two average precisions, on cases computed by hand."""

from __future__ import annotations

import pytest
import torch
from mmdet.registry import METRICS
from mmengine.evaluator import Evaluator

import spnas_hw.detection.framework  # noqa: F401

Truth = tuple[float, int, int]
"""x of a box of 10 pixels, label, ignore flag."""
Found = tuple[float, int, float]
"""x of a box of 10 pixels, label, score."""


def box(x: float) -> list[float]:
    return [x, 0, x + 9, 9]


def evaluated(images: list[tuple[list[Truth], list[Found]]], classes: int = 2) -> dict[str, float]:
    evaluator = Evaluator(METRICS.build({"type": "VocMetric"}))
    evaluator.dataset_meta = {"classes": tuple("abcdef"[:classes])}
    for truth, found in images:
        sample = {
            "instances": [
                {"bbox": box(x), "bbox_label": label, "ignore_flag": flag} for x, label, flag in truth
            ],
            "pred_instances": {
                "bboxes": torch.tensor([box(x) for x, _, _ in found]).reshape(-1, 4),
                "labels": torch.tensor([label for _, label, _ in found], dtype=torch.int64),
                "scores": torch.tensor([score for _, _, score in found]),
            },
        }
        evaluator.process([sample])
    return evaluator.evaluate(len(images))


def test_the_modes_differ_as_by_hand() -> None:
    """Two objects, found first and third: precision 1 up to recall 0.5, 2/3 up to recall 1."""
    found = evaluated([([(0, 0, 0), (50, 0, 0)], [(0, 0, 0.9), (100, 0, 0.8), (50, 0, 0.7)])])
    assert found["voc/AP50_area"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert found["voc/AP50_11points"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_difficult_objects_need_not_be_found_and_finding_them_is_no_fault() -> None:
    missed = evaluated([([(0, 0, 0), (50, 0, 1)], [(0, 0, 0.9)])])
    found = evaluated([([(0, 0, 0), (50, 0, 1)], [(50, 0, 0.95), (0, 0, 0.9)])])
    assert missed == found == {"voc/AP50_11points": pytest.approx(1), "voc/AP50_area": pytest.approx(1)}


def test_classes_that_do_not_occur_do_not_count() -> None:
    images = [([(0, 0, 0)], [(0, 0, 0.9)]), ([(0, 1, 0)], [])]
    assert evaluated(images)["voc/AP50_area"] == pytest.approx(0.5)
    assert evaluated(images, classes=5)["voc/AP50_area"] == pytest.approx(0.5)


def test_a_second_find_of_one_object_is_a_fault() -> None:
    images = [([(0, 0, 0), (50, 0, 0)], [(0, 0, 0.9), (1, 0, 0.8), (50, 0, 0.7)])]
    assert evaluated(images)["voc/AP50_area"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_nothing_found() -> None:
    assert evaluated([([(0, 0, 0)], []), ([], [])])["voc/AP50_area"] == 0


def test_a_half_is_enough() -> None:
    """Inclusive pixels: boxes of 10 pixels that are shifted by 3 overlap by 7 of 13, by 4 only 6 of 14."""
    assert evaluated([([(0, 0, 0)], [(3, 0, 0.9)])])["voc/AP50_area"] == pytest.approx(1)
    assert evaluated([([(0, 0, 0)], [(4, 0, 0.9)])])["voc/AP50_area"] == 0
