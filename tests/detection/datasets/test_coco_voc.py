"""COCO and PASCAL VOC: found whole, read as mmdet reads them, trained on and validated."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mmdet.registry import DATASETS

from spnas_hw.config import Dataset, load_search
from spnas_hw.detection.datasets import class_names, image_paths, mmdet_dataset, prepare, require_classes
from spnas_hw.detection.evaluator import ShortTraining
from spnas_hw.errors import DataError, InvalidConfig
from spnas_hw.schedule import Schedule
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

from .standins import BOXES, write_coco, write_voc

SIZE = (64, 128)
WRITERS = {"coco": write_coco, "voc": write_voc}


@pytest.fixture(params=list(WRITERS))
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Dataset:
    return WRITERS[request.param](tmp_path / "data")


def refused(dataset: Dataset, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare(dataset, SIZE)
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


def test_what_is_complete_is_prepared_and_listed(dataset: Dataset) -> None:
    prepare(dataset, SIZE)
    for split in ("train", "val"):
        paths = image_paths(dataset, split)
        assert paths == sorted(paths) and all(path.is_file() for path in paths)
        loaded = DATASETS.build(mmdet_dataset(dataset, split, []))
        listed = [loaded.get_data_info(i) for i in range(len(loaded))]
        assert sorted(info["img_path"] for info in listed) == [str(path) for path in paths]
        for info in listed:
            found = [(tuple(t["bbox"]), t["bbox_label"], t["ignore_flag"]) for t in info["instances"]]
            label = 7 if dataset.type == "coco" else class_names(dataset).index("bus")
            assert found == [(BOXES[0], label, 0), (BOXES[1], label, 1)]


def test_trained_and_validated(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Validation meets the ignored thing and string ids of images, which COCO's metric has to take."""
    schedule = Schedule(
        start_iterations=3,
        start_learning_rate=1e-3,
        iterations=2,
        batch_size=2,
        learning_rate=1e-3,
        final_learning_rate=1e-4,
        warmup_iterations=1,
        weight_decay=0.05,
        clip_grad_norm=10.0,
        rpn_samples=16,
        roi_samples=16,
    )
    detector = replace(
        load_search("demo").detector,
        classes=class_names(dataset),
        neck_channels=8,
        roi_channels=16,
        score_threshold=0.0,  # that something is detected
    )
    training = ShortTraining(tmp_path / "trials", detector, dataset, schedule, SIZE, seed=0)
    found = training(Proposal(unchanged(decode("b4_11-2"))), 0, None)
    assert found.iterations == 3
    assert capsys.readouterr() == ("", "")
    mean_ap = found.metrics["mAP"]
    assert mean_ap is not None and 0 <= mean_ap <= 1
    assert found.metrics["AP_small"] is None  # both boxes are medium


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("coco", "annotations/instances_train2017.json"),
        ("coco", "annotations/instances_val2017.json"),
        ("coco", "train2017/000000000002.jpg"),
        ("coco", "val2017/000000000001.jpg"),
        ("voc", "VOC2007/ImageSets/Main/test.txt"),
        ("voc", "VOC2012/ImageSets/Main/trainval.txt"),
        ("voc", "VOC2012/JPEGImages/2012_trainval_1.jpg"),
        ("voc", "VOC2007/Annotations/2007_test_0.xml"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, kind: str, name: str) -> None:
    dataset = WRITERS[kind](tmp_path)
    (tmp_path / name).unlink()
    refused(dataset, str(tmp_path), Path(name).name)


def test_an_empty_root_says_what_belongs_there(tmp_path: Path) -> None:
    for kind, words in (("coco", "annotations/, train2017/ and val2017/"), ("voc", "VOC2007/ and VOC2012/")):
        refused(Dataset(kind, tmp_path / "nowhere"), str(tmp_path), "root is the folder", words)
    assert not list(tmp_path.iterdir())


def without(part: str, key: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document[part][0].pop(key)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.pop("images"), "images"),
        (lambda d: d.update(images=[]), "no images"),
        (lambda d: d.update(annotations=3), "annotation file"),
        (lambda d: d.update(annotations=[3]), "annotation file"),
        (without("annotations", "bbox"), "keys"),
        (without("images", "file_name"), "keys"),
        (without("categories", "name"), "keys"),
        (lambda d: d["categories"].reverse(), "order"),
        (lambda d: d["categories"].pop(3), "motorcycle"),
    ],
)
def test_a_damaged_coco_file(tmp_path: Path, change: Callable[[dict[str, Any]], object], word: str) -> None:
    dataset = write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    refused(dataset, str(path), word)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"images": [', "\x00"])
def test_what_is_no_coco_file(tmp_path: Path, content: str) -> None:
    dataset = write_coco(tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.write_text(content)
    refused(dataset, str(path), "no COCO annotation file")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("</annotation>", ""),
        ("<width>128</width>", ""),
        ("<xmin>11</xmin>", ""),
        ("<xmin>11</xmin>", "<xmin>wide</xmin>"),
        ("<name>bus</name>", ""),
        ("<difficult>1</difficult>", "<difficult/>"),
    ],
)
def test_a_damaged_voc_label(tmp_path: Path, old: str, new: str) -> None:
    dataset = write_voc(tmp_path)
    path = tmp_path / "VOC2007" / "Annotations" / "2007_trainval_1.xml"
    path.write_text(path.read_text().replace(old, new))
    refused(dataset, str(path), "no VOC label")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\n"])
def test_a_damaged_voc_list(tmp_path: Path, content: bytes) -> None:
    dataset = write_voc(tmp_path)
    path = tmp_path / "VOC2012" / "ImageSets" / "Main" / "trainval.txt"
    path.write_bytes(content)
    refused(dataset, str(path))


def test_classes_are_those_of_the_data_in_their_order() -> None:
    for kind, count in (("coco", 80), ("voc", 20), ("ecp", 2)):
        dataset = Dataset(kind, Path("x"), 4 if kind == "ecp" else None)
        names = class_names(dataset)
        assert len(names) == count
        require_classes(dataset, names)
        with pytest.raises(InvalidConfig, match=f"class 0 .* {kind} data"):
            require_classes(dataset, names[::-1])
        with pytest.raises(InvalidConfig, match=f"has {count - 1} classes, {kind} data has {count}"):
            require_classes(dataset, names[:-1])


@pytest.mark.parametrize(("search", "count"), [("coco", 80), ("voc", 20)])
def test_the_shipped_detectors_have_the_classes_of_their_data(search: str, count: int) -> None:
    config = load_search(f"faster_rcnn_r50_fpn_1x_{search}" if search != "coco" else "faster_rcnn_r50_fpn_1x")
    assert (config.dataset.type, len(config.detector.classes)) == (search, count)
    require_classes(config.dataset, config.detector.classes)
