"""LAMR a second time, in plain Python, box by box, as the protocol is told. Slow and obvious."""

from __future__ import annotations

import math
from typing import Any

from spnas_hw.detection.datasets.ecp import Object

LIMITS = {  # least and largest height, least occlusion, occlusion and truncation must be below
    "reasonable": (40, math.inf, 0, 40),
    "small": (30, 60, 0, 40),
    "occluded": (40, math.inf, 40, 80),
    "all": (20, math.inf, 0, 80),
}
GROUP = {"pedestrian": "person-group-far-away", "rider": "rider+vehicle-group-far-away"}
Detection = tuple[str, tuple[float, ...], float]
"""Identity, box and score."""


def naive_lamr(
    images: list[tuple[list[Object], list[Detection]]], name: str, subset: str, ignore_other_vru: bool
) -> dict[str, Any]:
    """The values of one result: lamr, ground_truth, true_positives, false_positives."""
    points: list[tuple[float, bool]] = []
    wanted = 0
    for objects, detections in images:
        truths = []
        for thing in objects:
            box = clip(whole(thing) if name == "rider" else thing.box)
            status = status_of(thing, box, name, subset, ignore_other_vru)
            if status is not None:
                truths.append((status, box))
        truths.sort(key=lambda truth: truth[0])
        wanted += sum(status == 0 for status, _ in truths)
        points += match(truths, [found for found in detections if looked_at(found, name, subset)])
    points.sort(key=lambda point: -point[0])
    hits = sum(hit for _, hit in points)
    return {
        "lamr": average([hit for _, hit in points], wanted, len(images)) if wanted else None,
        "ground_truth": wanted,
        "true_positives": hits,
        "false_positives": len(points) - hits,
    }


def status_of(thing: Object, box: tuple[float, ...], name: str, subset: str, tolerant: bool) -> int | None:
    """0: must be found, 1: ignored, 2: ignore region, None: not there."""
    if thing.identity in GROUP and thing.identity != name:
        return 1 if tolerant else None
    if thing.identity == GROUP[name]:
        poster = name == "pedestrian" and "depiction" in thing.tags
        return None if poster else 2
    if thing.identity != name:
        return None
    if name == "pedestrian" and ("sitting-lying" in thing.tags or "behind-glass" in thing.tags):
        return 1
    least, largest, occluded, below = LIMITS[subset]
    if not least <= box[3] - box[1] <= largest:
        return 1
    return 0 if occluded <= thing.occlusion < below and thing.truncation < below else 1


def looked_at(detection: Detection, name: str, subset: str) -> bool:
    identity, box, _ = detection
    clipped = clip(box)
    height = clipped[3] - clipped[1]
    least, largest, _, _ = LIMITS[subset]
    return identity == name and least / 1.25 < height < largest * 1.25


def match(
    truths: list[tuple[int, tuple[float, ...]]], detections: list[Detection]
) -> list[tuple[float, bool]]:
    """Score and hit of the detections of an image that are counted."""
    points, taken = [], set()
    for _, box, score in sorted(detections, key=lambda detection: -detection[2]):
        best, best_overlap = None, 0.5
        for index, (status, truth) in enumerate(truths):
            overlap = overlap_of(clip(box), truth, status == 2)
            if status == 0 and index not in taken and overlap >= best_overlap:
                best, best_overlap = index, overlap
        if best is not None:
            taken.add(best)
            points.append((score, True))
        elif not any(status and overlap_of(clip(box), truth, status == 2) >= 0.5 for status, truth in truths):
            points.append((score, False))
    return points


def average(hits: list[bool], wanted: int, images: int) -> float:
    logarithms = []
    for quarter in range(9):
        miss_rate, found, wrong = 1.0, 0, 0
        for hit in hits:
            found, wrong = found + hit, wrong + (not hit)
            if wrong / images <= 10 ** (-2 + quarter / 4):
                miss_rate = 1 - found / wanted
        logarithms.append(math.log(max(miss_rate, 1e-10)))
    return math.exp(sum(logarithms) / 9)


def whole(thing: Object) -> tuple[float, ...]:
    if thing.identity != "rider":
        return thing.box
    boxes = [thing.box] + [child.box for child in thing.children]
    return tuple(choose(box[axis] for box in boxes) for axis, choose in enumerate((min, min, max, max)))


def clip(box: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(min(max(edge, 0), limit) for edge, limit in zip(box, (1920, 1024) * 2, strict=True))


def overlap_of(found: tuple[float, ...], truth: tuple[float, ...], is_region: bool) -> float:
    width = min(found[2], truth[2]) - max(found[0], truth[0])
    height = min(found[3], truth[3]) - max(found[1], truth[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    area = (found[2] - found[0]) * (found[3] - found[1])
    if is_region:
        return both / area
    return both / (area + (truth[2] - truth[0]) * (truth[3] - truth[1]) - both)
