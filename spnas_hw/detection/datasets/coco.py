"""COCO 2017 as it is downloaded. Needs no framework.

Layout `{root}/annotations/instances_{train|val}2017.json` and the images in `{root}/{train|val}2017/`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spnas_hw.errors import DataError

PARTS = ("images", "annotations", "categories")
IMAGE_KEYS = {"id", "file_name", "width", "height"}
ANNOTATION_KEYS = {"id", "image_id", "category_id", "bbox", "area"}


def annotations_path(root: Path, split: str) -> Path:
    """The annotation file of a split, `train` or `val`."""
    return root / "annotations" / f"instances_{split}2017.json"


def find_images(root: Path, split: str, classes: Sequence[str]) -> list[Path]:
    """The images of a split, sorted by path.

    Raises:
        DataError: a file is missing or damaged, or the categories are not `classes` in their order.
    """
    path = annotations_path(root, split)
    document = _read(path)
    # Labels are positions among the file's categories: another order would mix them up without a word.
    found = [category["name"] for category in document["categories"] if category["name"] in classes]
    if lacking := [name for name in classes if name not in found]:
        raise DataError(f"{path} lacks {len(lacking)} of COCO's categories, the first {lacking[0]!r}")
    if found != list(classes):
        raise DataError(f"{path} has COCO's categories in another order than COCO: use its own file")
    folder = root / f"{split}2017"
    present = set(os.listdir(folder)) if folder.is_dir() else set()
    names = sorted(image["file_name"] for image in document["images"])
    if missing := [name for name in names if name not in present]:
        raise DataError(f"{folder} lacks {len(missing)} of {len(names)} images, the first {missing[0]}")
    if not names:
        raise DataError(f"{path} lists no images")
    return [folder / name for name in names]


def category_ids(root: Path, split: str, classes: Sequence[str]) -> list[int]:
    """The id of each class, in their order; COCO's have gaps. Raises DataError."""
    path = annotations_path(root, split)
    ids = {category["name"]: int(category["id"]) for category in _read(path)["categories"]}
    if lacking := [name for name in classes if name not in ids]:
        raise DataError(f"{path} lacks the category {lacking[0]!r}")
    return [ids[name] for name in classes]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
        images, annotations, categories = (list(document[part]) for part in PARTS)
        complete = all(entry.keys() >= ANNOTATION_KEYS for entry in annotations)
        complete &= all(entry.keys() >= IMAGE_KEYS for entry in images)
        if not complete or not all(entry.keys() >= {"id", "name"} for entry in categories):
            raise ValueError("an entry lacks one of its keys")
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): root is the folder that holds annotations/, "
            "train2017/ and val2017/"
        ) from error
    except KeyError as error:
        raise DataError(f"{path} is no COCO annotation file: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is no COCO annotation file: {error}") from error
    return {"images": images, "annotations": annotations, "categories": categories}
