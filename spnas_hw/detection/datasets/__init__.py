"""Data sets: EuroCity Persons and the synthetic streets, one layout for both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets.ecp import find_frames
from spnas_hw.errors import DataError


def prepare(
    dataset: Dataset, size: Size, progress: Callable[[float, int], None] = lambda done, total: None
) -> None:
    """Sees to it that the images are there: renders synthetic streets of `size` (height, width).

    Raises:
        DataError: the folder holds something else, or no images.
    """
    if dataset.type == "ecp":
        for split in ("train", "val"):
            find_frames(dataset.root, split)
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


def image_paths(dataset: Dataset, split: str) -> list[Path]:
    """The images of a split, sorted by path. Raises DataError."""
    return [paths.image for paths in find_frames(dataset.root, split)]
