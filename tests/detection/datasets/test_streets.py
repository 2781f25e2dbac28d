from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from spnas_hw.detection.datasets.ecp import CLASSES, GROUPS, find_frames, read_frame
from spnas_hw.detection.datasets.streets import dataset, write_streets
from spnas_hw.detection.datasets.streets.scene import render_scene
from spnas_hw.errors import DataError

SMALL = {"height": 48, "width": 96, "seed": 0, "processes": 1}


def contents(root: Path) -> dict[str, str]:
    """Relative path -> digest of every file."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refused(root: Path, match: str, **changed: object) -> None:
    """Writing raises one line that names the folder, and leaves every file as it was."""
    before = contents(root) if root.is_dir() else root.read_bytes()
    with pytest.raises(DataError, match=match) as caught:
        write_streets(root, **{"train": 3, "val": 1, **SMALL, **changed})
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)
    assert (contents(root) if root.is_dir() else root.read_bytes()) == before


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 + 1 images of 48 x 96 pixels; copied from, never written to."""
    root = tmp_path_factory.mktemp("reference") / "streets"
    write_streets(root, train=3, val=1, **SMALL)
    return root


@pytest.fixture
def copy(reference: Path, tmp_path: Path) -> Path:
    for name in contents(reference):
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((reference / name).read_bytes())
    return tmp_path / "copy"


def test_the_same_seed_gives_the_same_bytes_in_another_process(streets: Path, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from spnas_hw.detection.datasets.streets import write_streets;"
        "write_streets(pathlib.Path(sys.argv[1]), train=5, val=2, height=64, width=128, seed=3, processes=2)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True, env=environment)
    other, here = contents(tmp_path / "other"), contents(streets)
    assert len(other) == 2 * (5 + 2) + 1
    assert other == {name: here[name] for name in other}


def test_another_seed_gives_other_images(reference: Path, tmp_path: Path) -> None:
    write_streets(tmp_path, train=1, val=1, **{**SMALL, "seed": 1})
    here, other = contents(reference), contents(tmp_path)
    assert not any(here[name] == digest for name, digest in other.items())


def test_all_images_differ(streets: Path) -> None:
    digests = [digest for name, digest in contents(streets).items() if name.endswith(".png")]
    assert len(set(digests)) == len(digests) == 25


def test_growth_keeps_what_is_there(copy: Path) -> None:
    before = contents(copy)
    written = {name: (copy / name).stat().st_mtime_ns for name in before}
    write_streets(copy, train=5, val=2, **SMALL)
    after = contents(copy)
    assert len(after) == len(before) + 2 * 3
    assert {name: after[name] for name in before} == before
    assert {name: (copy / name).stat().st_mtime_ns for name in before} == written


def test_the_loader_finds_it_with_and_without_the_prefix(streets: Path) -> None:
    for split, count in (("train", 20), ("val", 5)):
        frames = find_frames(streets, split)
        assert len(frames) == count
        assert find_frames(streets / "ECP", split) == frames


def test_day_and_night(streets: Path) -> None:
    brightness = {}
    for time, count in (("day", 16), ("night", 4)):
        frames = find_frames(streets, "train", [time])
        assert len(frames) == count
        brightness[time] = np.mean([cv2.imread(str(paths.image)).mean() for paths in frames])
    assert brightness["night"] < 0.9 * brightness["day"]  # street lamps and windows are lit


def test_files_hold_what_was_rendered(streets: Path) -> None:
    """Image i depends on (seed, split, time, i) alone; label and pixels survive the way through the files."""
    for index, time in ((2, "day"), (4, "night")):
        scene = render_scene(np.random.default_rng([3, 0, int(time == "night"), index]), 64, 128, index == 4)
        paths = find_frames(streets, "train", [time])[index if time == "day" else 0]
        assert np.array_equal(cv2.imread(str(paths.image)), scene.image)
        frame = read_frame(paths.label)
        assert (frame.width, frame.height, list(frame.tags)) == (128, 64, scene.label["tags"])
        assert len(frame.objects) == len(scene.label["children"])
        for thing, entry in zip(frame.objects, scene.label["children"], strict=True):
            assert thing.identity == entry["identity"] and list(thing.tags) == entry["tags"]
            assert thing.box == tuple(entry[key] for key in ("x0", "y0", "x1", "y1"))
            assert [child.identity for child in thing.children] == [c["identity"] for c in entry["children"]]


def test_boxes_lie_inside_the_image(streets: Path) -> None:
    for paths in find_frames(streets, "train") + find_frames(streets, "val"):
        things = read_frame(paths.label).objects
        for thing in itertools.chain(things, *(thing.children for thing in things)):
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 64


def test_a_small_sample_has_classes_groups_and_vehicles(streets: Path) -> None:
    things = [thing for paths in find_frames(streets, "train") for thing in read_frame(paths.label).objects]
    identities = {thing.identity for thing in things}
    assert identities >= {*CLASSES, GROUPS["pedestrian"], "bicycle-group"}
    vehicles = {child.identity for thing in things for child in thing.children}
    assert vehicles == {"bicycle", "motorbike"}
    assert {thing.occlusion for thing in things} >= {0, 10, 40}
    assert any(thing.truncation for thing in things)


def test_every_size_can_be_rendered() -> None:
    for height, width in ((32, 32), (96, 40), (40, 200), (131, 77)):
        scene = render_scene(np.random.default_rng(0), height, width, dark=False)
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        assert scene.image.std() > 5


def test_progress_counts_to_the_end_and_a_complete_set_is_left_alone(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(copy.rglob("*.json")).with_name("stray.txt").touch()
    calls: list[tuple[float, int]] = []
    (copy / "ECP/day/labels/train/synthville/synthville_00001.json").unlink()
    write_streets(copy, train=3, val=1, progress=lambda *call: calls.append(call), **SMALL)
    assert calls == [(3, 4), (4, 4)]

    monkeypatch.setattr(dataset, "ProcessPoolExecutor", None)  # nothing is left to be rendered
    calls.clear()
    write_streets(copy, train=3, val=1, progress=lambda *call: calls.append(call), **SMALL)
    assert calls == []


@pytest.mark.parametrize("kind", ["img", "labels"])
def test_what_is_missing_is_rendered_again(copy: Path, kind: str) -> None:
    before = contents(copy)
    dataset.Frame(copy, "train", "day", 1, 0, 48, 96).path(kind).unlink()
    assert contents(copy) != before
    write_streets(copy, train=3, val=1, **SMALL)
    assert contents(copy) == before


@pytest.mark.parametrize("fails_at", [1, 2])
def test_an_interrupted_writing_is_completed(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    """The image is moved into place first, then the label: interrupted before the one or the other."""
    write_streets(tmp_path, train=0, val=0, **SMALL)
    calls = itertools.count(1)

    def replace(source: Path, target: Path, move: object = os.replace) -> None:
        if next(calls) == fails_at:
            raise KeyboardInterrupt
        move(source, target)

    frame = dataset.Frame(tmp_path, "train", "day", 0, 0, 48, 96)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(dataset.os, "replace", replace)
        dataset.write_frame(frame)
    assert frame.path("img").exists() == (fails_at == 2) and not frame.path("labels").exists()
    with pytest.raises(DataError, match="no images" if fails_at == 1 else "no label"):
        find_frames(tmp_path, "train")
    write_streets(tmp_path, train=3, val=1, **SMALL)
    finished = {name: digest for name, digest in contents(tmp_path).items() if not name.endswith(".partial")}
    assert finished == contents(reference)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"height": 49}, {"width": 97}])
def test_other_parameters_are_refused(copy: Path, changed: dict[str, int]) -> None:
    refused(copy, "choose another folder", **changed)


@pytest.mark.parametrize("changed", [{"train": 2}, {"val": 0}])
def test_fewer_images_than_there_are_is_refused(copy: Path, changed: dict[str, int]) -> None:
    refused(copy, "1 images more", **changed)


@pytest.mark.parametrize("record", ["", "{", "\xff\xfe", "[]", "null", '{"seed": 0}'])
def test_a_damaged_record_is_refused(copy: Path, record: str) -> None:
    (copy / dataset.RECORD).write_bytes(record.encode("latin-1"))
    refused(copy, "damaged|not of")


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("my only copy")
    refused(tmp_path, "choose another folder")
    refused(tmp_path / "thesis.tex", "choose another folder")


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    write_streets(tmp_path, train=1, val=0, **SMALL)
    record = json.loads((tmp_path / dataset.RECORD).read_text())
    assert record == {"format": dataset.FORMAT, "height": 48, "width": 96, "seed": 0}
