from __future__ import annotations

from pathlib import Path

import pytest

from spnas_hw.config import Dataset
from spnas_hw.detection.datasets import image_paths, prepare
from spnas_hw.errors import DataError


def streets_at(root: Path, train: int = 2) -> Dataset:
    return Dataset("streets", root, min_height_px=4, train=train, val=1, seed=0)


def test_an_empty_ecp_root_is_refused(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"no images in {root}"):
            prepare(Dataset("ecp", root, min_height_px=20), (48, 96))
        assert not any(tmp_path.iterdir())


def test_ecp_needs_both_splits(streets: Path, tmp_path: Path) -> None:
    prepare(Dataset("ecp", streets, min_height_px=20), (48, 96))  # the layout is the same

    for paths in (streets / "ECP/day").glob("*/train"):
        target = tmp_path / "ECP/day" / paths.parent.name
        target.mkdir(parents=True)
        (target / "train").symlink_to(paths)
    with pytest.raises(DataError, match=r"no images in .*val"):
        prepare(Dataset("ecp", tmp_path, min_height_px=20), (48, 96))


def test_streets_are_rendered_once(tmp_path: Path) -> None:
    calls: list[tuple[float, int]] = []
    dataset = streets_at(tmp_path / "streets")
    for _ in range(2):
        prepare(dataset, (48, 96), lambda *call: calls.append(call))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    names = [[path.name for path in image_paths(dataset, split)] for split in ("train", "val")]
    assert names == [["synthville_00000.png", "synthville_00001.png"], ["synthville_00000.png"]]


def test_streets_of_another_size_are_refused(tmp_path: Path) -> None:
    prepare(streets_at(tmp_path), (48, 96))
    with pytest.raises(DataError, match="choose another folder"):
        prepare(streets_at(tmp_path), (96, 48))


def test_images_of_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        image_paths(streets_at(tmp_path), "val")
