"""Reads EuroCity Persons as it is downloaded. Needs no framework.

Layout `{root}/[ECP/]{day|night}/{img|labels}/{split}/{city}/{city}_{frame}.{png|json}`; one label file an
image. What is not known (identities, keys) is tolerated, what is damaged is an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spnas_hw.errors import DataError

TIMES = ("day", "night")
SPLITS = ("train", "val", "test")
CLASSES = ("pedestrian", "rider")
"""In the order of their labels."""
GROUPS = {"pedestrian": "person-group-far-away", "rider": "rider+vehicle-group-far-away"}
_TAG = re.compile(r"(occluded|truncated)\s*>\s*(\d+)")

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels; the full extent, occluded parts included."""


@dataclass(frozen=True)
class Object:
    """One labelled thing. `occlusion` and `truncation` are the numbers of its tags, 0 without one."""

    identity: str
    box: Box
    occlusion: int
    truncation: int
    tags: tuple[str, ...]
    children: tuple[Object, ...]

    @property
    def height_px(self) -> float:
        return self.box[3] - self.box[1]

    def union(self) -> Box:
        """The box together with those of its children: a rider with the vehicle, as it is evaluated."""
        boxes = [self.box, *(child.box for child in self.children)]
        lows = [min(box[axis] for box in boxes) for axis in (0, 1)]
        highs = [max(box[axis] for box in boxes) for axis in (2, 3)]
        return (lows[0], lows[1], highs[0], highs[1])


@dataclass(frozen=True)
class Frame:
    """The label of one image: its size in pixels, image-level tags, and objects."""

    width: int
    height: int
    tags: tuple[str, ...]
    objects: tuple[Object, ...]


@dataclass(frozen=True)
class FramePaths:
    """Where a frame's image and label lie."""

    image: Path
    label: Path


def base_of(root: Path) -> Path:
    """Where `day` and `night` lie: in `root`, or in its folder ECP."""
    return root / "ECP" if (root / "ECP").is_dir() else root


def find_frames(root: Path, split: str, times: Sequence[str] = TIMES) -> list[FramePaths]:
    """All frames of a split, sorted by path.

    Raises:
        DataError: no image, an image without its label, or a label without its image.
    """
    found = [FramePaths(image, label_path(image)) for image in find_images(root, split, times)]
    if missing := [paths for paths in found if not paths.label.exists()]:
        raise DataError(f"{missing[0].image} has no label {missing[0].label}")
    labels = {path for time in times for path in (base_of(root) / time / "labels" / split).glob("*/*.json")}
    if alone := sorted(labels - {paths.label for paths in found}):
        raise DataError(
            f"{len(alone)} labels have no image, such as {alone[0]}: spnas-hw data check lists them"
        )
    return found


def find_images(root: Path, split: str, times: Sequence[str] = TIMES) -> list[Path]:
    """All images of a split, with labels or without, sorted by path. Raises DataError: there is none."""
    if unknown := [time for time in times if time not in TIMES]:
        raise DataError(f"time of day {unknown[0]!r} is none of {', '.join(TIMES)}")
    base = base_of(root)
    found = [path for time in times for path in sorted((base / time / "img" / split).glob("*/*.png"))]
    if not found:
        where = base / "|".join(times) / "img" / split
        raise DataError(f"no images in {where}: give the folder that holds ECP/day/img/{split}")
    return found


def label_path(image: Path) -> Path:
    """The label of an image of the layout above."""
    city, split, _, time = list(image.parents)[:4]
    return time / "labels" / split.name / city.name / f"{image.stem}.json"


def read_frame(path: Path) -> Frame:
    """The label file of one image. Raises DataError naming the file and what is wrong."""
    with naming(path, "ECP label"):
        document = read_document(path)
        return Frame(
            _length_px(document, "imagewidth"),
            _length_px(document, "imageheight"),
            tuple(str(tag) for tag in _list(document, "tags")),
            _objects(document),
        )


def read_objects(path: Path) -> tuple[Object, ...]:
    """The objects of a label file, which need not tell the size of its image. Raises DataError."""
    with naming(path, "ECP label"):
        return _objects(read_document(path))


def instance_of(
    thing: Object, min_height_px: float, rider_includes_vehicle: bool = True
) -> dict[str, Any] | None:
    """What is trained on, in mmdet's words: `bbox` (corners), `bbox_label`, `ignore_flag`; None: background.

    Ignored are groups far away, depictions of single persons, persons below `min_height_px` and those
    occluded or truncated by more than 80 %. Sitting or lying ones and those behind glass are trained on.
    """
    groups = {group: name for name, group in GROUPS.items()}
    name = groups.get(thing.identity, thing.identity)
    if name not in CLASSES or is_poster_of_a_group(thing):
        return None
    whole = rider_includes_vehicle and thing.identity == "rider"
    box = thing.union() if whole else thing.box
    width, height = box[2] - box[0], box[3] - box[1]
    if width < 1 or height < 1:
        return None
    hidden = max(thing.occlusion, thing.truncation) >= 80
    ignored = thing.identity in groups or "depiction" in thing.tags or hidden or height < min_height_px
    return {"bbox": list(box), "bbox_label": CLASSES.index(name), "ignore_flag": int(ignored)}


def is_poster_of_a_group(thing: Object) -> bool:
    """Background in the protocol; a poster of one person is a person."""
    return thing.identity == GROUPS["pedestrian"] and "depiction" in thing.tags


@contextmanager
def naming(path: Path, kind: str) -> Iterator[None]:
    """Whatever goes wrong while `path` is read becomes a DataError: one line with the file and what it is."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise DataError(f"{path} is no {kind}: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} is no {kind}: {error}") from error


def read_document(path: Path) -> dict[str, Any]:
    """The frame object of a file; some carry it inside a converter's or a sequence's envelope."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if "@converter" in document:
        document = document["children"][0]["children"][0]
    elif document.get("identity") == "seqlist":
        inner = document["children"]
        document = inner["children"] if isinstance(inner, dict) else inner[0]
    return document


def _objects(document: dict[str, Any]) -> tuple[Object, ...]:
    return tuple(_object(child) for child in _list(document, "children", required=True))


def _object(entry: dict[str, Any]) -> Object:
    box = tuple(_number(entry, key) for key in ("x0", "y0", "x1", "y1"))
    if not (box[0] <= box[2] and box[1] <= box[3]):
        raise ValueError(f"the box {box} has its corners in the wrong order")
    tags = tuple(str(tag) for tag in _list(entry, "tags"))
    shares = {"occluded": 0, "truncated": 0}
    for tag in tags:
        if match := _TAG.fullmatch(tag.strip()):
            shares[match[1]] = max(shares[match[1]], int(match[2]))
    children = tuple(_object(child) for child in _list(entry, "children"))
    identity = str(entry.get("identity"))
    return Object(identity, (box[0], box[1], box[2], box[3]), *shares.values(), tags, children)


def _number(entry: dict[str, Any], key: str) -> float:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{key!r} is {value!r:.40}, not a finite number")
    return float(value)


def _length_px(entry: dict[str, Any], key: str) -> int:
    length = _number(entry, key)
    if length < 1:
        raise ValueError(f"{key!r} is {length:g}, not a number of pixels")
    return int(length)


def _list(entry: dict[str, Any], key: str, required: bool = False) -> list[Any]:
    """The list at `key`; unless `required` it may be missing or null."""
    value = entry[key] if required else entry.get(key)
    if value is None and not required:
        return []
    if not isinstance(value, list):
        raise TypeError(f"{key!r} is {value!r:.40}, not a list")
    return value
