from __future__ import annotations

import numpy as np
import pytest

from .comparing import parity

IMAGE = [np.zeros((1, 3, 4, 4), np.float32)]
BOXES = np.array([[0, 0, 10, 20], [30, 0, 40, 20], [0, 0, 10, 20]], np.float32)
SCORES = np.array([0.9, 0.8, 0.7], np.float32)
LABELS = np.array([0, 0, 1])


def compare(boxes=BOXES, scores=SCORES, labels=LABELS, threshold=0.05):
    return parity(IMAGE, lambda _: (BOXES, SCORES, LABELS), lambda _: (boxes, scores, labels), threshold)


def test_order_does_not_matter() -> None:
    found = compare(BOXES[::-1], SCORES[::-1], LABELS[::-1])
    assert (found.images, found.detections, found.matched, found.agreement) == (1, 3, 3, 1.0)
    assert found.box_error_px == found.score_error == 0.0


@pytest.mark.parametrize(
    ("boxes", "scores", "labels"),
    [
        (BOXES + np.float32([0.02, 0, 0, 0]), SCORES, LABELS),
        (BOXES, SCORES + np.float32(0.002), LABELS),
        (BOXES, SCORES, 1 - LABELS),
    ],
)
def test_each_tolerance_counts(boxes, scores, labels) -> None:
    assert compare(boxes, scores, labels).matched < 3


def test_a_missing_or_additional_detection_counts() -> None:
    assert compare(BOXES[:2], SCORES[:2], LABELS[:2]).agreement == pytest.approx(2 / 3)
    twice = (np.concatenate([BOXES, BOXES[:1]]), np.append(SCORES, SCORES[0]), np.append(LABELS, 0))
    assert compare(*twice).agreement == pytest.approx(3 / 4)


def test_faint_detections_are_left_out() -> None:
    assert compare(BOXES[:1], SCORES[:1], LABELS[:1], threshold=0.85).agreement == 1.0


def test_nothing_detected_is_not_agreement() -> None:
    empty = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    found = parity(IMAGE, lambda _: empty, lambda _: empty, 0.05)
    assert found.agreement is None and found.box_error_px is None
    assert compare(*empty).agreement == 0.0
