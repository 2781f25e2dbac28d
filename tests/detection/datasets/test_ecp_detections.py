from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.detection.datasets.ecp import read_objects
from spnas_hw.detection.datasets.ecp_detections import Detections, pair_files, read_detections
from spnas_hw.errors import DataError

DETECTED: dict[str, Any] = {
    "identity": "frame",
    "children": [
        {"identity": "rider", "x0": 1, "y0": 2.5, "x1": 3, "y1": 4, "score": 0.5, "orient": -10.0},
        {"identity": "pedestrian", "x0": 5, "y0": 6, "x1": 7, "y1": 8, "score": 1},
    ],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for detections that the tests of this module overwrite, each with its own."""
    return tmp_path_factory.mktemp("detections") / "roma_01393.json"


def read(path: Path, document: object) -> Detections:
    path.write_text(json.dumps(document))
    return read_detections(path)


def refused(path: Path, content: bytes) -> str:
    """Reading raises one line that names the file."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_detections(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


def write_empty(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"identity": "frame", "children": []}')


def same(a: Detections, b: Detections) -> bool:
    return all(
        np.array_equal(getattr(a, field), getattr(b, field)) for field in ("labels", "boxes", "scores")
    )


def test_detections_are_read_in_their_order(path: Path) -> None:
    found = read(path, DETECTED)
    assert found.labels.tolist() == [1, 0]
    assert found.boxes.tolist() == [[1, 2.5, 3, 4], [5, 6, 7, 8]]
    assert found.scores.tolist() == [0.5, 1]


def test_an_image_without_detections(path: Path) -> None:
    found = read(path, {"identity": "frame", "children": []})
    assert found.boxes.shape == (0, 4) and found.scores.shape == found.labels.shape == (0,)


def test_other_names_for_the_same(path: Path) -> None:
    rider, pedestrian = copy.deepcopy(DETECTED["children"])
    rider["identity"] = "cyclist"
    del pedestrian["score"]
    pedestrian["confidencevalues"] = [1, 0.2]
    for corner in ("x0", "y0", "x1", "y1"):
        del pedestrian[corner]
    pedestrian |= {"mincol": 5, "minrow": 6, "maxcol": 6, "maxrow": 7}
    expected = read(path, DETECTED)
    assert same(read(path, {"objects": [rider, pedestrian]}), expected)
    assert same(read(path, {"@converter": 1, "children": [{"children": [DETECTED]}]}), expected)


def test_other_identities_are_left_out(path: Path) -> None:
    children = DETECTED["children"]
    others = [{**children[0], "identity": identity} for identity in ("bicycle", "Pedestrian", "", None, 7)]
    assert same(read(path, {"children": [*others[:3], *children, *others[3:]]}), read(path, DETECTED))


def damages() -> Iterator[tuple[str, list[Any], object, str]]:
    """(name, path of keys into DETECTED, value put there, what the error says); Ellipsis takes it away."""
    second = ["children", 1]
    for key in ("identity", "x0", "y0", "x1", "y1", "score"):
        yield f"no {key}", [*second, key], ..., f"lacks '{key}'"
    for key in ("x0", "y1", "score"):
        for number in (None, "0.5", [1], {}, True, float("nan"), float("inf")):
            yield f"{key} {number!r}", [*second, key], number, f"detection 2: '{key}' is"
        yield f"{key} huge", [*second, key], 10**400, "too large"
    for key, value in (("x1", 4), ("y1", 5)):
        yield f"{key} in the wrong order", [*second, key], value, "detection 2: the box"
    yield "no children", ["children"], ..., "lacks 'children'"
    for value in (None, 3, "", {}):
        yield f"children {value!r}", ["children"], value, "not a list"
    for value in (None, 3, "rider", []):
        yield f"child {value!r}", second, value, ""


@pytest.mark.parametrize(
    ("keys", "value", "complaint"), [pytest.param(*rest, id=name) for name, *rest in damages()]
)
def test_a_damaged_file_is_refused(path: Path, keys: list[Any], value: object, complaint: str) -> None:
    document = copy.deepcopy(DETECTED)
    holder: Any = document
    for key in keys[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = value
    assert complaint in refused(path, json.dumps(document).encode())


@pytest.mark.parametrize("content", [b"", b"\xff", b"null", b"[]", b"{}", b"1", b"[" * 100_000])
def test_what_is_no_detection_file_is_refused(path: Path, content: bytes) -> None:
    refused(path, content)


def test_a_file_cut_off_at_any_byte_is_refused(path: Path) -> None:
    content = json.dumps(DETECTED).encode()
    for length in range(len(content)):
        refused(path, content[:length])


@given(st.floats(0, 1), st.lists(st.tuples(*[st.floats(0, 1000)] * 4), max_size=4))
def test_numbers_are_read_as_they_are_written(path: Path, score: float, corners: list[Any]) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    named = [dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)) for box in boxes]
    found = read(path, {"children": [{"identity": "rider", "score": score, **one} for one in named]})
    assert found.boxes.tolist() == [list(box) for box in boxes]
    assert found.scores.tolist() == [score] * len(boxes)


def test_labels_need_not_tell_the_size_of_the_image(path: Path) -> None:
    path.write_text(
        json.dumps({"children": [{"identity": "pedestrian", "x0": 1, "y0": 2, "x1": 3, "y1": 4}]})
    )
    assert [one.box for one in read_objects(path)] == [(1, 2, 3, 4)]


@pytest.mark.parametrize("truth", [("roma_00002", "bari_00001"), ("roma/roma_00002", "bari/bari_00001")])
@pytest.mark.parametrize("found", [("roma_00002", "bari_00001"), ("x/y/roma_00002", "bari_00001")])
def test_files_pair_by_name_in_order(tmp_path: Path, truth: list[str], found: list[str]) -> None:
    write_empty(tmp_path / "labels", *truth)
    write_empty(tmp_path / "detections", *found, ".hidden")
    (tmp_path / "labels/readme.txt").touch()
    pairs = pair_files(tmp_path / "labels", tmp_path / "detections")
    assert [(label.stem, detected.stem) for label, detected in pairs] == [
        ("bari_00001", "bari_00001"),
        ("roma_00002", "roma_00002"),
    ]
    assert all(path.exists() for pair in pairs for path in pair)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    write_empty(tmp_path / "elsewhere", "roma_00002")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/roma").symlink_to(tmp_path / "elsewhere")
    assert len(pair_files(tmp_path / "labels", tmp_path / "elsewhere")) == 1


def test_files_without_partner_are_named(tmp_path: Path) -> None:
    labels, detections = tmp_path / "labels", tmp_path / "detections"
    write_empty(labels, *(f"roma_{index:05d}" for index in range(6)))
    write_empty(detections, "roma_00005", "bari_00000")
    with pytest.raises(DataError) as caught:
        pair_files(labels, detections)
    message = str(caught.value)
    assert "\n" not in message
    assert (
        f"{detections} lacks 5 files (roma_00000.json, roma_00001.json, roma_00002.json and 2 more)"
        in message
    )
    assert f"{labels} lacks 1 file (bari_00000.json)" in message


def test_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    write_empty(tmp_path, "a/roma_00000", "b/roma_00000")
    with pytest.raises(DataError, match=r"a/roma_00000\.json and .*b/roma_00000\.json"):
        pair_files(tmp_path, tmp_path)


def test_day_and_night_are_not_pooled(tmp_path: Path) -> None:
    write_empty(tmp_path, "ECP/day/labels/val/roma/roma_00000", "ECP/night/labels/val/roma/roma_00000")
    day, night = tmp_path / "ECP/day", tmp_path / "ECP/night"
    for pair in ((tmp_path, day), (day, tmp_path), (tmp_path / "ECP", tmp_path / "ECP")):
        with pytest.raises(
            DataError, match=f"never evaluated together: give the folder of one, such as {day}"
        ):
            pair_files(*pair)
    assert len(pair_files(day, day)) == len(pair_files(night, night)) == 1


def test_folders_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    write_empty(tmp_path / "full", "roma_00000")
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "nowhere", tmp_path / "empty", tmp_path / "full/roma_00000.json"):
        for what, pair in (
            ("ground truth", (folder, tmp_path / "full")),
            ("detections", (tmp_path / "full", folder)),
        ):
            with pytest.raises(DataError, match=f"{what}: .*{folder}"):
                pair_files(*pair)
