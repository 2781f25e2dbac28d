"""`spnas-hw data`: what it counts, what it finds broken, and that it changes nothing."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.registry import DATASETS

import spnas_hw.detection.framework
from spnas_hw.config import Dataset
from spnas_hw.detection.datasets import mmdet_dataset, prepare

from .command import refused, spnas_hw, succeeded

MIN_HEIGHT = ("--min-height-px", "8")


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "ecp"
    prepare(Dataset("streets", root, 8, 12, 8, 0), (128, 256))
    return root


@pytest.fixture
def copied(streets: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(streets, tmp_path / "ecp"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def checked(root: Path) -> dict[str, Any]:
    code, output, errors = spnas_hw(root.parent, "data", "check", str(root), *MIN_HEIGHT, "--json")
    found = json.loads(output.splitlines()[-1])
    assert (code == 1) == bool(found["broken"]), errors
    return found


def test_everything_is_counted_and_nothing_changed(streets: Path) -> None:
    before = contents(streets)
    found = checked(streets)
    assert contents(streets) == before and found["broken"] == []
    labels = [path for path in streets.rglob("*.json") if path.parent.parent.parent.name == "labels"]
    objects = [thing for path in labels for thing in json.loads(path.read_text())["children"]]
    children = [child for thing in objects for child in thing.get("children", [])]
    identities: Counter[str] = Counter()
    for split in found["splits"]:
        identities.update(split["identities"])
        assert sum(split["images"].values()) == split["labels"]
    assert identities == Counter(thing["identity"] for thing in objects + children)
    assert sum(split["labels"] for split in found["splits"]) == len(labels) == 20
    for split in ("train", "val"):
        loaded = DATASETS.build(mmdet_dataset(Dataset("ecp", streets, 8), split, []))
        infos = [loaded.get_data_info(index) for index in range(len(loaded))]
        for flag, kind in ((0, "trained"), (1, "ignored")):
            own = Counter(
                i["bbox_label"] for info in infos for i in info["instances"] if i["ignore_flag"] == flag
            )
            told = [
                sum(s[kind][n] for s in found["splits"] if s["split"] == split)
                for n in ("pedestrian", "rider")
            ]
            assert told == [own[0], own[1]]


def test_the_prefix_may_be_left_out(streets: Path) -> None:
    assert checked(streets / "ECP") == checked(streets)


def first(root: Path, kind: str) -> Path:
    return min((root / "ECP" / "day" / kind / "train").rglob("*.*"))


def cut_image(root: Path) -> Path:
    path = first(root, "img")
    path.write_bytes(path.read_bytes()[:-20])
    return path


def no_image(root: Path) -> Path:
    path = first(root, "img")
    path.write_text("not an image")
    return path


def no_label(root: Path) -> Path:
    first(root, "labels").unlink()
    return first(root, "img")


def lonely_label(root: Path) -> Path:
    first(root, "img").unlink()
    return first(root, "labels")


def bad_label(root: Path) -> Path:
    path = first(root, "labels")
    path.write_text("{")
    return path


def other_size(root: Path) -> Path:
    assert cv2.imwrite(str(first(root, "img")), np.zeros((64, 64, 3), np.uint8))
    return first(root, "labels")


@pytest.mark.parametrize("damage", [cut_image, no_image, no_label, lonely_label, bad_label, other_size])
def test_what_is_broken_is_named(copied: Path, damage: Callable[[Path], Path]) -> None:
    path = damage(copied)
    (line,) = checked(copied)["broken"]
    assert str(path) in line and "\n" not in line
    code, output, errors = spnas_hw(copied.parent, "data", "check", str(copied))
    assert code == 1 and path.name in output and "error: 1 files" in errors


def test_a_test_split_needs_no_labels(copied: Path) -> None:
    target = copied / "ECP" / "day" / "img" / "test" / "rome"
    target.mkdir(parents=True)
    shutil.copy(first(copied, "img"), target / "rome_00000.png")
    found = checked(copied)
    assert found["broken"] == []
    assert {"rome": 1} in [split["images"] for split in found["splits"] if split["split"] == "test"]


def test_a_folder_of_something_else_is_one_line(tmp_path: Path) -> None:
    line = spnas_hw(tmp_path, "data", "check", ".")[2].splitlines()[-1]
    assert line.startswith("error: . holds no EuroCity Persons")


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_reads_what_training_reads(streets: Path, tmp_path: Path, split: str) -> None:
    """mmdet's COCO data set gives the boxes, labels and ignore regions that ours gives."""
    words = ("data", "ecp-to-coco", str(streets), "--split", split, *MIN_HEIGHT)
    succeeded(tmp_path, *words, "--out", str(tmp_path / "labels.json"))
    ours = DATASETS.build(mmdet_dataset(Dataset("ecp", streets, 8), split, []))
    theirs = DATASETS.build(
        {
            "type": "CocoDataset",
            "ann_file": str(tmp_path / "labels.json"),
            "data_prefix": {"img": str(streets)},
            "metainfo": {"classes": ("pedestrian", "rider")},
            "test_mode": True,
        }
    )
    assert len(ours) == len(theirs) > 0
    for index in range(len(ours)):
        a, b = ours.get_data_info(index), theirs.get_data_info(index)
        assert Path(a["img_path"]) == Path(b["img_path"]) and (a["width"], a["height"]) == (
            b["width"],
            b["height"],
        )
        for x, y in zip(a["instances"], b["instances"], strict=True):
            assert (x["bbox_label"], x["ignore_flag"]) == (y["bbox_label"], y["ignore_flag"])
            assert x["bbox"] == pytest.approx(y["bbox"])


def test_one_time_of_day_and_no_file_overwritten(streets: Path, tmp_path: Path) -> None:
    words = ("data", "ecp-to-coco", str(streets), "--split", "val", "--out", "labels/night.json")
    succeeded(tmp_path, *words, "--time", "night")
    names = [
        image["file_name"] for image in json.loads((tmp_path / "labels/night.json").read_text())["images"]
    ]
    assert names and all(name.startswith("ECP/night/img/val/") for name in names)
    assert "is there already" in refused(tmp_path, *words)
    succeeded(tmp_path, *words, "--force")
    assert len(json.loads((tmp_path / "labels/night.json").read_text())["images"]) == 8
