"""Which boxes of one list overlap which of another, image by image, and who takes whom. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OVERLAP = 0.5  # a match, inclusively
BLOCK = 16_384  # detections whose pairs are computed at once: what bounds the memory


@dataclass(frozen=True)
class Boxes:
    """Boxes of many images: `image` (n,) ascending indices, `corners` (n, 4) x0, y0, x1, y1 in pixels."""

    image: NDArray[np.int64]
    corners: NDArray[np.float64]

    @property
    def heights_px(self) -> NDArray[np.float64]:
        return self.corners[:, 3] - self.corners[:, 1]


@dataclass(frozen=True)
class Pairs:
    """Detections and true boxes of the same image that overlap enough: indices, both (n,).

    Sorted by detection; of one detection the largest overlap first, of equal ones the later true box.
    """

    detection: NDArray[np.int64]
    truth: NDArray[np.int64]

    def where(self, kept: NDArray[np.bool_]) -> Pairs:
        return Pairs(self.detection[kept], self.truth[kept])


def overlapping(detections: Boxes, truth: Boxes, is_region: NDArray[np.bool_]) -> Pairs:
    """All pairs of an image that overlap by `OVERLAP` or more.

    The overlap is intersection over union; with a region (`is_region`, one for each true box) it is the share
    of the detection that lies inside.
    """
    found = [_overlapping(detections, truth, is_region, *pairs) for pairs in _blocks(detections, truth)]
    detection, true, overlap = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((-true, -overlap, detection))
    return Pairs(detection[order], true[order])


def first_come(pairs: Pairs, detections: int) -> NDArray[np.bool_]:
    """Which of the detections get a true box where, in their order, each takes its best that is left."""
    matched, taken = np.zeros(detections, dtype=bool), set()
    last = -1  # the pairs of one detection are neighbours
    for detection, true in zip(pairs.detection.tolist(), pairs.truth.tolist(), strict=True):
        if detection != last and true not in taken:
            taken.add(true)
            last = detection
            matched[detection] = True
    return matched


def _blocks(detections: Boxes, truth: Boxes) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Every pair of a detection and a true box of its image, as indices; at least one block, maybe empty."""
    first = np.searchsorted(truth.image, detections.image, side="left")
    counts = np.searchsorted(truth.image, detections.image, side="right") - first
    for start in range(0, max(len(counts), 1), BLOCK):
        block = slice(start, start + BLOCK)
        times = counts[block]
        detection = np.repeat(np.arange(start, start + len(times)), times)
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        yield detection, np.repeat(first[block], times) + within


def _overlapping(
    detections: Boxes,
    truth: Boxes,
    is_region: NDArray[np.bool_],
    detection: NDArray[np.int64],
    true: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    a, b = detections.corners[detection].T, truth.corners[true].T
    width = np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    meet = (width > 0) & (height > 0)
    detection, true, a, b = detection[meet], true[meet], a[:, meet], b[:, meet]
    both = (width * height)[meet]
    # Summed in the order of the data set's own evaluator: rounding decides what is exactly a half.
    found = both + ((a[2] - a[0]) * (a[3] - a[1]) - both)
    missed = (b[2] - b[0]) * (b[3] - b[1]) - both
    overlap = both / np.where(is_region[true], found, found + missed)
    enough = overlap >= OVERLAP
    return detection[enough], true[enough], overlap[enough]
