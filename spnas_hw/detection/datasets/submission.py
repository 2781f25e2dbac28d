"""Detections as the benchmarks take them: EuroCity Persons, COCO, PASCAL VOC. Needs no framework."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spnas_hw.config import Dataset
from spnas_hw.detection.datasets import coco
from spnas_hw.detection.datasets.ecp import CLASSES
from spnas_hw.detection.datasets.ecp_detections import CORNERS, Detections
from spnas_hw.errors import DataError

Found = tuple[Path, Any, Detections]
"""An image, its id in the data set (None where it has no labels), and what was detected in it."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip: the same detections give the same file


def require_free(folder: Path) -> None:
    """Raises DataError where a folder of detections could not be written without losing something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already: choose another folder, or remove it")
    home = next(path for path in folder.absolute().parents if path.exists())
    if not home.is_dir() or not os.access(home, os.W_OK):
        raise DataError(f"{folder} cannot be written: {home} is no folder that may be written to")


def write_submission(
    folder: Path, dataset: Dataset, split: str, classes: Sequence[str], found: Sequence[Found]
) -> None:
    """Writes a folder whole, or not at all.

    - EuroCity Persons and streets: `day/` and `night/`, a file an image, and a zip of each as the server
      takes it, the files flat in it. Numbers are written in full.
    - COCO: `detections.json`, COCO's list of results.
    - PASCAL VOC: `comp4_det_{set}_{class}.txt`, a file a class; inclusive pixels that start at 1.

    Raises:
        DataError: `folder` is there already, or cannot be written.
    """
    require_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            if dataset.type == "coco":
                ids = coco.category_ids(dataset.root, split, classes)
                (partial / "detections.json").write_text(json.dumps(_coco(found, ids)))
            elif dataset.type == "voc":
                _write_voc(partial, split, classes, found)
            else:
                _write_ecp(partial, found)
            partial.chmod(0o755)
            if folder.exists():
                folder.rmdir()
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(f"{folder} could not be written: {error.strerror or error}") from error


def ecp_document(found: Detections) -> dict[str, Any]:
    """The official file of one image; `ecp_detections.read_detections` reads it back, equal."""
    rows = zip(found.labels.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
    children = [
        {"identity": CLASSES[label], **dict(zip(CORNERS, box, strict=True)), "score": score}
        for label, box, score in rows
    ]
    return {"identity": "frame", "children": children}


def _write_ecp(folder: Path, found: Sequence[Found]) -> None:
    files: dict[str, dict[str, str]] = {}
    for image, _, detected in found:
        time = image.parents[3].name
        files.setdefault(time, {})[f"{image.stem}.json"] = json.dumps(ecp_document(detected))
    for time, documents in files.items():
        (folder / time).mkdir()
        with zipfile.ZipFile(folder / f"{time}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(documents):
                (folder / time / name).write_text(documents[name])
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, documents[name])


def _coco(found: Sequence[Found], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": score,
        }
        for _, image_id, detected in found
        for label, (x0, y0, x1, y1), score in zip(
            detected.labels.tolist(), detected.boxes.tolist(), detected.scores.tolist(), strict=True
        )
    ]


def _write_voc(folder: Path, split: str, classes: Sequence[str], found: Sequence[Found]) -> None:
    which = "test" if split == "val" else "trainval"  # as the split is called there
    for label, name in enumerate(classes):
        lines = [
            f"{image.stem} {score:.6f} {x0 + 1:.3f} {y0 + 1:.3f} {x1 + 1:.3f} {y1 + 1:.3f}\n"
            for image, _, detected in found
            for own, (x0, y0, x1, y1), score in zip(
                detected.labels.tolist(), detected.boxes.tolist(), detected.scores.tolist(), strict=True
            )
            if own == label
        ]
        (folder / f"comp4_det_{which}_{name}.txt").write_text("".join(lines))
