"""Agreement of the exported detector with PyTorch, measured on real images, never assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Detections = tuple[Array, Array, NDArray[np.int64]]
"""boxes [n, 4] in pixels, scores [n], labels [n]."""
Detect = Callable[[Array], Detections]
"""image [1, 3, H, W], normalised RGB -> its detections."""

BOX_TOLERANCE_PX = 1e-2
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Parity:
    """`matched` of `detections` have a partner of the same class within both tolerances; the errors
    are the largest among the matched, None where nothing was detected."""

    images: int
    detections: int
    matched: int
    box_error_px: float | None
    score_error: float | None

    @property
    def agreement(self) -> float | None:
        """Share of detections with a partner, or None where nothing was detected."""
        return self.matched / self.detections if self.detections else None


def parity(images: Iterable[Array], reference: Detect, exported: Detect, score_threshold: float) -> Parity:
    """Compares two detectors as sets: the order of equal scores is nobody's promise.

    Detections above `score_threshold` of either side count; each may be a partner once.
    """
    count = total = matched = 0
    box_errors: list[float] = []
    score_errors: list[float] = []
    for image in images:
        count += 1
        expected, found = reference(image), exported(image)
        pairs = _pairs(expected, found)
        visible = [int((scores > score_threshold).sum()) for _, scores, _ in (expected, found)]
        pairs = [pair for pair in pairs if pair[2] > score_threshold]
        total += max(visible)
        matched += len(pairs)
        box_errors += [pair[0] for pair in pairs]
        score_errors += [pair[1] for pair in pairs]
    return Parity(count, total, matched, max(box_errors, default=None), max(score_errors, default=None))


def _pairs(expected: Detections, found: Detections) -> list[tuple[float, float, float]]:
    """(box error, score error, score) of every expected detection that has a partner."""
    boxes, scores, labels = found
    free = np.ones(len(scores), bool)
    pairs = []
    for box, score, label in zip(*expected, strict=True):
        if not len(scores):
            break
        box_error = np.abs(boxes - box).max(axis=1)
        score_error = np.abs(scores - score)
        near = free & (labels == label) & (box_error <= BOX_TOLERANCE_PX) & (score_error <= SCORE_TOLERANCE)
        if near.any():
            best = int(np.where(near, box_error, np.inf).argmin())
            free[best] = False
            pairs.append((float(box_error[best]), float(score_error[best]), float(score)))
    return pairs
