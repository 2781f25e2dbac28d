"""What a copy of EuroCity Persons holds, and what of it is damaged. Reads, and changes nothing."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from spnas_hw.detection.datasets.ecp import (
    CLASSES,
    SPLITS,
    TIMES,
    Frame,
    Object,
    base_of,
    instance_of,
    label_path,
    read_frame,
)
from spnas_hw.errors import DataError

_HEAD = struct.Struct(">8s4x4sII")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True)
class SplitCounts:
    """A split at a time of day: images by city, objects by identity (those of riders' vehicles, too) and by
    tag, and what is trained on or ignored of each class."""

    time: str
    split: str
    images: dict[str, int]
    labels: int
    identities: dict[str, int]
    tags: dict[str, int]
    trained: dict[str, int]
    ignored: dict[str, int]


@dataclass(frozen=True)
class Checked:
    """`broken` says what is wrong, a line a file."""

    splits: tuple[SplitCounts, ...]
    broken: tuple[str, ...]


def check(
    root: Path, min_height_px: float, progress: Callable[[float, int], None] = lambda done, total: None
) -> Checked:
    """Counts every image and label below `root`.

    A label is read whole, of an image its head and its end: that shows a file cut short and a wrong size,
    not a wrong byte in the middle.

    Args:
        min_height_px: smaller persons are ignored.

    Raises:
        DataError: there is no EuroCity Persons.
    """
    base = base_of(root)
    files = {
        (time, split): tuple(
            sorted((base / time / kind / split).glob(f"*/*.{ending}"))
            for kind, ending in (("img", "png"), ("labels", "json"))
        )
        for time in TIMES
        for split in SPLITS
    }
    total = sum(len(images) + len(labels) for images, labels in files.values())
    if not total:
        raise DataError(f"{root} holds no EuroCity Persons: give the folder of ECP/day/img, or of day/img")
    splits, broken, done = [], [], 0
    for (time, split), (images, labels) in files.items():
        if not images and not labels:
            continue
        frames: list[Frame] = []
        for image in images:
            label = label_path(image)
            broken += list(_faults(image, label, split, frames))
            done += 2
            progress(min(done, total), total)
        known = {label_path(image) for image in images}
        broken += [f"{label}: a label without its image" for label in labels if label not in known]
        splits.append(_counts(time, split, images, len(labels), frames, min_height_px))
    progress(total, total)
    return Checked(tuple(splits), tuple(broken))


def _faults(image: Path, label: Path, split: str, frames: list[Frame]) -> Iterator[str]:
    """What is wrong with an image and its label; a label that can be read is added to `frames`."""
    size = _size(image)
    if size is None:
        yield f"{image}: no PNG, or cut short"
    if not label.exists():
        if split != "test":
            yield f"{image}: an image without its label"
        return
    try:
        frame = read_frame(label)
    except DataError as error:
        yield str(error)
        return
    frames.append(frame)
    if size is not None and size != (frame.width, frame.height):
        yield f"{label}: it says {frame.width}x{frame.height}, its image has {size[0]}x{size[1]}"


def _size(image: Path) -> tuple[int, int] | None:
    """Width and height of a PNG; None where head or end is not one's."""
    try:
        with open(image, "rb") as file:
            signature, kind, width, height = _HEAD.unpack(file.read(_HEAD.size))
            file.seek(-len(_END), 2)
            whole = file.read() == _END
    except (OSError, struct.error):
        return None
    return (width, height) if whole and (signature, kind) == (_SIGNATURE, b"IHDR") else None


def _counts(
    time: str, split: str, images: list[Path], labels: int, frames: list[Frame], min_height_px: float
) -> SplitCounts:
    things = [thing for frame in frames for thing in frame.objects]
    everything = [one for thing in things for one in _with_children(thing)]
    instances = [instance for thing in things if (instance := instance_of(thing, min_height_px))]

    def by_class(flag: int) -> dict[str, int]:
        found = Counter(i["bbox_label"] for i in instances if i["ignore_flag"] == flag)
        return {name: found[label] for label, name in enumerate(CLASSES)}

    return SplitCounts(
        time,
        split,
        dict(sorted(Counter(image.parent.name for image in images).items())),
        labels,
        dict(Counter(one.identity for one in everything).most_common()),
        dict(Counter(tag for one in everything for tag in one.tags).most_common()),
        by_class(0),
        by_class(1),
    )


def _with_children(thing: Object) -> Iterator[Object]:
    yield thing
    for child in thing.children:
        yield from _with_children(child)
