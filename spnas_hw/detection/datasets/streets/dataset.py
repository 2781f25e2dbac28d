"""The synthetic streets on disk, in the layout and label format of EuroCity Persons.

`{root}/ECP/{day|night}/{img|labels}/{train|val}/{city}/{city}_{frame:05d}.{png|json}`. Image i depends on
(seed, split, time, i) alone, so a larger data set contains the smaller one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from spnas_hw.detection.datasets.streets.scene import render_scene
from spnas_hw.errors import DataError

CITY = "synthville"
NIGHT_SHARE = 5  # every fifth image; about every seventh in EuroCity Persons
KINDS = ("img", "labels")
RECORD = "streets.json"
FORMAT = 2


@dataclass(frozen=True)
class Frame:
    """One image to render."""

    root: Path
    split: str
    time: str
    index: int
    seed: int
    height: int
    width: int

    def path(self, kind: str) -> Path:
        """The file of `kind`: `img` or `labels`."""
        name = f"{CITY}_{self.index:05d}.{'png' if kind == 'img' else 'json'}"
        return self.root / "ECP" / self.time / kind / self.split / CITY / name


def write_streets(
    root: Path,
    *,
    train: int,
    val: int,
    height: int,
    width: int,
    seed: int,
    progress: Callable[[float, int], None] = lambda done, total: None,
    processes: int = 2,
) -> None:
    """Renders what is missing of a data set of `train` + `val` images; one that is complete is left alone.

    Raises:
        DataError: `root` holds something else, streets of another size or seed, or more images than asked
            for, which would silently be trained on.
    """
    _claim(root, {"format": FORMAT, "height": height, "width": width, "seed": seed})
    frames = list(_frames(root, train, val, height, width, seed))
    _refuse_more(root, frames)
    missing = [frame for frame in frames if not all(frame.path(kind).exists() for kind in KINDS)]
    if not missing:
        return
    progress(len(frames) - len(missing), len(frames))
    # Each worker has a core; OpenCV's own threads would fight over them.
    with ProcessPoolExecutor(processes, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for done, _ in enumerate(pool.map(write_frame, missing, chunksize=4), 1):
            progress(len(frames) - len(missing) + done, len(frames))


def write_frame(frame: Frame) -> None:
    """Renders one image; the label is written last, and marks the frame as complete."""
    keys = [frame.seed, ("train", "val").index(frame.split), ("day", "night").index(frame.time), frame.index]
    scene = render_scene(np.random.default_rng(keys), frame.height, frame.width, frame.time == "night")
    encoded, content = cv2.imencode(".png", scene.image)
    if not encoded:
        raise DataError(f"{frame.path('img')} could not be encoded")
    _write_atomically(frame.path("img"), content.tobytes())
    _write_atomically(frame.path("labels"), (json.dumps(scene.label, indent=1) + "\n").encode())


def _frames(root: Path, train: int, val: int, height: int, width: int, seed: int) -> Iterator[Frame]:
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            time = "night" if index % NIGHT_SHARE == NIGHT_SHARE - 1 else "day"
            yield Frame(root, split, time, index, seed, height, width)


def _refuse_more(root: Path, frames: list[Frame]) -> None:
    wanted = {frame.path("img") for frame in frames}
    if extra := sorted(set((root / "ECP").glob("*/img/*/*/*.png")) - wanted):
        raise DataError(
            f"{root} holds {len(extra)} images more than the {len(wanted)} asked for, such as {extra[0]}: "
            "ask for as many, or choose another folder"
        )


def size_of_streets(root: Path) -> tuple[int, int] | None:
    """Height and width of the streets in a folder; None: there are none yet. Raises DataError."""
    path = root / RECORD
    if not path.exists():
        return None
    record = _read_record(path)
    return record["height"], record["width"]


def _read_record(path: Path) -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(path.read_text())
        if found.keys() >= {"height", "width"}:
            return found
    except (ValueError, AttributeError):
        pass
    raise DataError(f"{path} is damaged: remove {path.parent} to render it again")


def _claim(root: Path, record: dict[str, int]) -> None:
    path = root / RECORD
    if not path.exists():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise DataError(f"{root} exists and holds no synthetic streets: choose another folder")
        root.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, (json.dumps(record) + "\n").encode())
        return
    if (found := _read_record(path)) != record:
        raise DataError(
            f"{root} holds synthetic streets of {found}, not of {record}: choose another folder or remove it"
        )


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
