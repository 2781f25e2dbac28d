"""The log-average miss rate (LAMR) of EuroCity Persons, as its own evaluator computes it. Needs numpy alone.

Rules: the data set's paper and `SomeNeurons/ECPB` (2019), the code of the benchmark. Day and night are
evaluated apart; whoever calls sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets.ecp import CLASSES, GROUPS, Box, Object, is_poster_of_a_group
from spnas_hw.detection.datasets.ecp_detections import Detections
from spnas_hw.detection.metrics.matching import Boxes, first_come, overlapping

SIZE: Size = (1024, 1920)
"""Height and width in pixels of the data set's images."""
REFERENCES = (
    *(0.01, 0.01778279410038923, 0.03162277660168379, 0.05623413251903491),
    *(0.1, 0.1778279410038923, 0.31622776601683794, 0.5623413251903491, 1.0),
)
"""False positives per image, 10^-2 to 10^0. Written out: computed, 0.1 is a bit less on some machines, and a
curve that reaches 0.1 exactly would miss it."""
LEAST_MISS_RATE = 1e-10
MARGIN = 1.25  # how far detections may lie outside a subset's heights
EXEMPT = frozenset({"sitting-lying", "behind-glass"})  # tags of pedestrians who need not be found

Image = tuple[Sequence[Object], Detections]
"""What is labelled and what was detected in one image."""


@dataclass(frozen=True)
class Subset:
    """Who must be found; all others of the class are ignored.

    Heights in pixels, both inclusive. `min_occlusion` is inclusive; occlusion and truncation must lie below
    `hidden_below`; all in percent, as in the tags.
    """

    min_height_px: float
    hidden_below: int
    max_height_px: float = inf
    min_occlusion: int = 0


SUBSETS = {
    "reasonable": Subset(40, hidden_below=40),
    "small": Subset(30, hidden_below=40, max_height_px=60),
    "occluded": Subset(40, hidden_below=80, min_occlusion=40),
    "all": Subset(20, hidden_below=80),
}


@dataclass(frozen=True)
class Lamr:
    """One number of the protocol and the counts behind it.

    `lamr` is a fraction of 1, None without ground truth. `ground_truth` are the objects that must be found;
    detections matched with what is ignored are not counted.
    """

    class_name: str
    subset: str
    ignore_other_vru: bool
    lamr: float | None
    ground_truth: int
    true_positives: int
    false_positives: int

    @property
    def detections(self) -> int:
        """Those that are counted."""
        return self.true_positives + self.false_positives


def evaluate(images: Sequence[Image], classes: Sequence[str] = CLASSES, size: Size = SIZE) -> list[Lamr]:
    """LAMR of each class and subset, with `ignore_other_vru` False (as on the benchmark's server) and True.

    The order of the images, at least one, matters where scores are equal: the protocol sorts by file name.

    Args:
        classes: of `CLASSES`.
        size: height and width of all images. Where the height is not the protocol's, boxes are scaled to it;
            such numbers say nothing of the benchmark.
    """
    return [result for name in classes for result in _evaluate_class(images, name, size)]


def log_average_miss_rate(hits: NDArray[np.bool_], ground_truth: int, images: int) -> float | None:
    """LAMR of detections that are true (`hits`, (n,)) or false positives, by falling score.

    At every reference the last point of the curve counts that has no more false positives per image; before
    the first point everything is missed. None without ground truth.
    """
    if ground_truth == 0:
        return None
    misses = np.concatenate([[1.0], 1 - np.cumsum(hits) / ground_truth])
    false_per_image = np.cumsum(~hits) / images
    at_references = misses[np.searchsorted(false_per_image, REFERENCES, side="right")]
    return float(np.exp(np.mean(np.log(np.maximum(at_references, LEAST_MISS_RATE)))))


@dataclass(frozen=True)
class _Truth:
    """The labelled boxes of all images that matter for a class; arrays of one entry a box."""

    boxes: Boxes
    is_other: NDArray[np.bool_]  # of the other class
    is_group: NDArray[np.bool_]  # of several, inseparable
    is_exempt: NDArray[np.bool_]
    occlusion: NDArray[np.int64]
    truncation: NDArray[np.int64]

    def must_be_found(self, subset: Subset) -> NDArray[np.bool_]:
        """What the protocol gives status 0."""
        heights_px = self.boxes.heights_px
        return (
            ~(self.is_other | self.is_group | self.is_exempt)
            & (subset.min_height_px <= heights_px)
            & (heights_px <= subset.max_height_px)
            & (subset.min_occlusion <= self.occlusion)
            & (np.maximum(self.occlusion, self.truncation) < subset.hidden_below)
        )


def _evaluate_class(images: Sequence[Image], name: str, size: Size) -> Iterator[Lamr]:
    truth = _truth(images, name, size)
    boxes, scores = _detected(images, name, size)
    pairs = overlapping(boxes, truth.boxes, truth.is_group)
    for subset_name, subset in SUBSETS.items():
        heights_px = boxes.heights_px
        kept = (heights_px > subset.min_height_px / MARGIN) & (heights_px < subset.max_height_px * MARGIN)
        wanted = truth.must_be_found(subset)
        theirs = pairs.where(kept[pairs.detection])
        hits = first_come(theirs.where(wanted[theirs.truth]), len(scores))
        for ignore_other_vru in (False, True):
            ignored = ~wanted if ignore_other_vru else ~(wanted | truth.is_other)
            excused = np.zeros(len(scores), dtype=bool)
            excused[theirs.detection[ignored[theirs.truth]]] = True
            counted = np.flatnonzero(kept & (hits | ~excused))
            by_score = counted[np.argsort(-scores[counted], kind="stable")]
            found = int(hits.sum())
            yield Lamr(
                class_name=name,
                subset=subset_name,
                ignore_other_vru=ignore_other_vru,
                lamr=log_average_miss_rate(hits[by_score], int(wanted.sum()), len(images)),
                ground_truth=int(wanted.sum()),
                true_positives=found,
                false_positives=len(counted) - found,
            )


def _truth(images: Sequence[Image], name: str, size: Size) -> _Truth:
    """Riders are boxed with their vehicle where riders are evaluated, without it where pedestrians are."""
    roles = {other: "other" for other in CLASSES} | {name: "own", GROUPS[name]: "group"}
    numbered = [
        (index, thing)
        for index, (objects, _) in enumerate(images)
        for thing in objects
        if thing.identity in roles and not is_poster_of_a_group(thing)
    ]
    things = [thing for _, thing in numbered]
    corners = [thing.union() if thing.identity == name == "rider" else thing.box for thing in things]
    role = np.array([roles[thing.identity] for thing in things], dtype=str)
    exempt = [name == "pedestrian" and not EXEMPT.isdisjoint(thing.tags) for thing in things]
    return _Truth(
        boxes=Boxes(np.array([index for index, _ in numbered], dtype=np.int64), _clipped(corners, size)),
        is_other=role == "other",
        is_group=role == "group",
        is_exempt=np.array(exempt, dtype=bool),
        occlusion=np.array([thing.occlusion for thing in things], dtype=np.int64),
        truncation=np.array([thing.truncation for thing in things], dtype=np.int64),
    )


def _detected(images: Sequence[Image], name: str, size: Size) -> tuple[Boxes, NDArray[np.float64]]:
    """Boxes and scores (n,) of a class; within an image by falling score, equal ones as they were given."""
    image = np.repeat(np.arange(len(images)), [len(found.scores) for _, found in images])
    labels, boxes, scores = (
        np.concatenate([np.asarray(getattr(found, field)) for _, found in images])
        for field in ("labels", "boxes", "scores")
    )
    order = np.lexsort((-scores, image))
    order = order[labels[order] == CLASSES.index(name)]
    return Boxes(image[order], _clipped(boxes[order], size)), scores[order]


def _clipped(corners: Sequence[Box] | NDArray[np.float64], size: Size) -> NDArray[np.float64]:
    """Boxes (n, 4) without what lies outside the image, in pixels of the protocol."""
    height, width = size
    inside = np.clip(np.asarray(corners, dtype=np.float64).reshape(-1, 4), 0, [width, height] * 2)
    return inside * (SIZE[0] / height)
