"""Data sets: EuroCity Persons and the synthetic streets in one layout, COCO and PASCAL VOC through mmdet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets import coco, voc
from spnas_hw.detection.datasets.ecp import CLASSES, find_frames
from spnas_hw.errors import DataError, InvalidConfig

# What mmdet trains on: images with objects, 32 pixels a side at least.
TRAINED = {"filter_cfg": {"filter_empty_gt": True, "min_size": 32}}


def prepare(
    dataset: Dataset, size: Size, progress: Callable[[float, int], None] = lambda done, total: None
) -> None:
    """Sees to it that the images are there: renders synthetic streets of `size` (height, width), looks for
    every file of the other data sets. Nothing is ever downloaded.

    Raises:
        DataError: the folder holds something else, or lacks a file.
    """
    if dataset.type != "streets":
        for split in ("train", "val"):
            image_paths(dataset, split)
        return
    if dataset.train is None or dataset.val is None or dataset.seed is None:
        raise DataError("synthetic streets need train, val and seed")
    from spnas_hw.detection.datasets.streets import write_streets

    write_streets(
        dataset.root,
        train=dataset.train,
        val=dataset.val,
        height=size[0],
        width=size[1],
        seed=dataset.seed,
        progress=progress,
    )


def prepare_streets(
    dataset: Dataset, size: Size, progress: Callable[[float, int], None] = lambda done, total: None
) -> None:
    """Sees to it that a network of `size` finds the streets that a data set asks for, no more and no fewer;
    those that are there may have another size. Other data sets are left alone. Raises DataError."""
    if dataset.type == "streets":
        from spnas_hw.detection.datasets.streets import size_of_streets

        prepare(dataset, size_of_streets(dataset.root) or size, progress)


def image_paths(dataset: Dataset, split: str) -> list[Path]:
    """The images of a split, `train` or `val`, sorted by path. Raises DataError."""
    if dataset.type == "coco":
        return coco.find_images(dataset.root, split, class_names(dataset))
    if dataset.type == "voc":
        return voc.find_images(dataset.root, split)
    return [paths.image for paths in find_frames(dataset.root, split)]


def train_images(dataset: Dataset) -> int:
    """Images of the training split, of streets also before they are rendered. Raises DataError."""
    if dataset.type == "streets" and dataset.train is not None:
        return dataset.train
    return len(image_paths(dataset, "train"))


def class_names(dataset: Dataset) -> tuple[str, ...]:
    """The classes in the order of their labels."""
    if dataset.type in ("ecp", "streets"):
        return CLASSES
    import spnas_hw.detection.framework  # noqa: F401, I001  mmdet, quietly
    from mmdet.datasets import CocoDataset, VOCDataset

    kind = CocoDataset if dataset.type == "coco" else VOCDataset
    return tuple(kind.METAINFO["classes"])


def require_classes(dataset: Dataset, classes: Sequence[str]) -> None:
    """Raises InvalidConfig where `classes` are not those of the data, in their order."""
    known = class_names(dataset)
    for index, (given, wanted) in enumerate(zip(classes, known, strict=False)):
        if given != wanted:
            raise InvalidConfig(
                f"class {index} of the detector is {given!r}, in {dataset.type} data it is {wanted!r}: "
                "name the classes of the data, in their order"
            )
    if len(classes) != len(known):
        raise InvalidConfig(f"the detector has {len(classes)} classes, {dataset.type} data has {len(known)}")


def mmdet_dataset(dataset: Dataset, split: str, pipeline: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration from which mmdet builds a split, `train` or `val`.

    COCO's crowds and VOC's difficult objects have `ignore_flag` 1, as what EuroCity Persons ignores.
    """
    if dataset.type == "coco":
        return {
            "type": "Coco",
            "ann_file": str(coco.annotations_path(dataset.root, split)),
            "data_prefix": {"img": str(dataset.root / f"{split}2017")},
            "pipeline": pipeline,
            **_use(split),
        }
    if dataset.type == "voc":
        return _concatenated([_voc_part(dataset, *part, split, pipeline) for part in voc.SETS[split]])
    return {
        "type": "EuroCityPersons",
        "data_root": str(dataset.root),
        "split": split,
        "min_height_px": dataset.min_height_px,
        "pipeline": pipeline,
    }


def _voc_part(
    dataset: Dataset, year: str, image_set: str, split: str, pipeline: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "type": "VOCDataset",
        "data_root": str(dataset.root),
        "ann_file": voc.list_path(year, image_set),
        "data_prefix": {"sub_data_root": f"{year}/"},
        "pipeline": pipeline,
        **_use(split),
    }


def _concatenated(parts: list[dict[str, Any]]) -> dict[str, Any]:
    if len(parts) == 1:
        return parts[0]
    # The years differ in their `dataset_type`, which mmengine would object to.
    return {"type": "ConcatDataset", "ignore_keys": ["dataset_type"], "datasets": parts}


def _use(split: str) -> dict[str, Any]:
    return TRAINED if split == "train" else {"test_mode": True}
