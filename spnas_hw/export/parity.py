"""Agreement of the exported detector with PyTorch, measured on real images, never assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Detections = tuple[Array, Array, NDArray[np.int64]]
"""boxes [n, 4] in pixels, scores [n], labels [n]."""
Detect = Callable[[Array], Detections]
"""image [1, 3, H, W], normalised RGB -> its detections."""


@dataclass(frozen=True)
class Tolerance:
    """How far a partner may be."""

    box_px: float
    score: float


EXACT = Tolerance(box_px=1e-2, score=1e-3)
"""Of the same arithmetic in another order."""
CLOSE = Tolerance(box_px=2.0, score=0.05)
"""Of a network with fewer bits."""


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


@dataclass
class Comparison:
    """Compares two detectors image by image as sets: the order of equal scores is nobody's promise.

    Detections above `score_threshold` of either side count; each may be a partner once.
    """

    score_threshold: float
    tolerance: Tolerance = EXACT
    images: int = 0
    detections: int = 0
    _pairs: list[tuple[float, float]] = field(default_factory=list)

    def add(self, expected: Detections, found: Detections) -> None:
        """The detections of both in one more image."""
        self.images += 1
        self.detections += max(int((side[1] > self.score_threshold).sum()) for side in (expected, found))
        pairs = _pairs(expected, found, self.tolerance)
        self._pairs += [pair[:2] for pair in pairs if pair[2] > self.score_threshold]

    def parity(self) -> Parity:
        """What was found so far."""
        boxes, scores = ([pair[axis] for pair in self._pairs] for axis in (0, 1))
        errors = max(boxes, default=None), max(scores, default=None)
        return Parity(self.images, self.detections, len(self._pairs), *errors)


def _pairs(expected: Detections, found: Detections, tolerance: Tolerance) -> list[tuple[float, float, float]]:
    """(box error, score error, score) of every expected detection that has a partner."""
    boxes, scores, labels = found
    free = np.ones(len(scores), bool)
    pairs = []
    for box, score, label in zip(*expected, strict=True):
        if not len(scores):
            break
        box_error = np.abs(boxes - box).max(axis=1)
        score_error = np.abs(scores - score)
        near = free & (labels == label) & (box_error <= tolerance.box_px) & (score_error <= tolerance.score)
        if near.any():
            best = int(np.where(near, box_error, np.inf).argmin())
            free[best] = False
            pairs.append((float(box_error[best]), float(score_error[best]), float(score)))
    return pairs
