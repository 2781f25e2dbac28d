"""Detections in the submission format of EuroCity Persons: one JSON file an image, named as its label.

`{"identity": "frame", "children": [{"identity": "pedestrian", "x0", "y0", "x1", "y1", "score"}, ...]}`; the
older names that the data set's own tools take are taken here, too.
"""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spnas_hw.detection.datasets.ecp import CLASSES, TIMES, naming, read_document
from spnas_hw.errors import DataError

LABELS = {name: label for label, name in enumerate(CLASSES)} | {"cyclist": CLASSES.index("rider")}
CORNERS = ("x0", "y0", "x1", "y1")
# Of inclusive pixels: the last column and row lie within the box.
OLD_CORNERS = ("mincol", "minrow", "maxcol", "maxrow")
NAMED = 3  # files that an error names; of more it tells the number


@dataclass(frozen=True)
class Detections:
    """What was detected in one image, in the order of its file.

    `labels` (n,) are indices into `CLASSES`, `boxes` (n, 4) x0, y0, x1, y1 in pixels, `scores` (n,).
    """

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]


def read_detections(path: Path) -> Detections:
    """The detections of one image; those of other identities are left out.

    Raises:
        DataError: the file is damaged, lacks a key, or holds a box or a score that is none.
    """
    with naming(path, "ECP detection file"):
        document = read_document(path)
        entries = document["objects"] if "objects" in document else document["children"]
        if not isinstance(entries, list):
            raise TypeError(f"its detections are {entries!r:.40}, not a list")
        rows = [_row(entry) for entry in entries]
        flat = [value for row in rows for value in row]
        if not set(map(type, flat)) <= {int, float}:
            raise ValueError(_first_fault(rows))
        numbers = np.array(flat, dtype=np.float64).reshape(-1, 5)
        if not (np.isfinite(numbers).all() and (numbers[:, :2] <= numbers[:, 2:4]).all()):
            raise ValueError(_first_fault(rows))
        labels = np.array([LABELS.get(str(entry["identity"]), -1) for entry in entries], dtype=np.int64)
    known = labels >= 0
    return Detections(labels[known], numbers[known, :4], numbers[known, 4])


def _row(entry: dict[str, Any]) -> list[Any]:
    """Corners and score as they stand in the file."""
    score = entry["score"] if "score" in entry or "confidencevalues" not in entry else _old_score(entry)
    if "maxrow" not in entry:
        return [*(entry[key] for key in CORNERS), score]
    x0, y0, x1, y1 = (entry[key] for key in OLD_CORNERS)
    return [x0, y0, x1 + 1, y1 + 1, score]


def _old_score(entry: dict[str, Any]) -> Any:
    return entry["confidencevalues"][0]


def _first_fault(rows: Iterable[list[Any]]) -> str:
    """What is wrong with the first unsound row, in words."""
    faults = ((number, _fault(row)) for number, row in enumerate(rows, 1))
    number, fault = next((number, fault) for number, fault in faults if fault)
    return f"detection {number}: {fault}"


def _fault(row: list[Any]) -> str | None:
    for name, value in zip((*CORNERS, "score"), row, strict=True):
        if type(value) not in (int, float) or not math.isfinite(value):
            return f"{name!r} is {value!r:.40}, not a finite number"
    if not (row[0] <= row[2] and row[1] <= row[3]):
        return f"the box {tuple(row[:4])} has its corners in the wrong order"
    return None


def pair_files(ground_truth: Path, detections: Path) -> list[tuple[Path, Path]]:
    """The label and the detection file of every image, sorted by file name.

    Both folders are flat or hold folders (of cities, say); what pairs the files is their names.

    Raises:
        DataError: a folder is missing or empty, a file has no partner or no name of its own, or day and
            night lie in one folder.
    """
    truth, found = _files(ground_truth, "ground truth"), _files(detections, "detections")
    faults = []
    if missing := sorted(truth.keys() - found.keys()):
        faults.append(f"{detections} lacks {_files_of(missing)} of the ground truth")
    if extra := sorted(found.keys() - truth.keys()):
        faults.append(f"{ground_truth} lacks {_files_of(extra)} of the detections")
    if faults:
        raise DataError(f"{'; '.join(faults)}: an image without detections has a file, too")
    return [(truth[name], found[name]) for name in sorted(truth)]


def _files(folder: Path, what: str) -> dict[str, Path]:
    """The JSON files at any depth, by name."""
    if not folder.is_dir():
        raise DataError(f"{what}: {folder} is no folder")
    # Unlike rglob, this follows links to folders and passes over hidden files.
    paths = [folder / name for name in sorted(glob.glob("**/*.json", root_dir=folder, recursive=True))]
    if not paths:
        raise DataError(f"{what}: there is no .json file in {folder}")
    if {*TIMES} <= {part for path in paths for part in path.relative_to(folder).parts[:-1]}:
        raise DataError(
            f"{what}: {folder} holds day and night, which are never evaluated together: "
            f"give the folder of one, such as {_folder_of(TIMES[0], paths)}"
        )
    files: dict[str, Path] = {}
    for path in paths:
        if (other := files.setdefault(path.name, path)) != path:
            raise DataError(f"{what}: {other} and {path} have the same name")
    return files


def _folder_of(time: str, paths: Iterable[Path]) -> Path:
    return next(folder for path in paths for folder in path.parents if folder.name == time)


def _files_of(names: list[str]) -> str:
    shown = ", ".join(names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} file{'s' * (len(names) > 1)} ({shown}{more})"
