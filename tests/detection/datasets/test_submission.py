"""Detections written for the benchmarks are those that were made."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.config import Dataset
from spnas_hw.detection.datasets import class_names
from spnas_hw.detection.datasets.ecp_detections import Detections, pair_files, read_detections
from spnas_hw.detection.datasets.submission import ecp_document, write_submission
from spnas_hw.errors import DataError

from .standins import write_coco, write_voc

coordinates = st.floats(0, 2000, width=32)


@st.composite
def detections(draw: st.DrawFn) -> Detections:
    rows = draw(
        st.lists(st.tuples(st.integers(0, 1), *[coordinates] * 4, st.floats(0, 1, width=32)), max_size=8)
    )
    boxes = [[min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)] for _, x0, y0, x1, y1, _ in rows]
    return Detections(
        np.array([row[0] for row in rows], dtype=np.int64),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array([row[5] for row in rows], dtype=np.float64),
    )


def some(count: int, classes: int = 2) -> Detections:
    rng = np.random.default_rng(count)
    low = rng.uniform(0, 50, (count, 2))
    return Detections(
        rng.integers(0, classes, count),
        np.hstack([low, low + rng.uniform(1, 9, (count, 2))]),
        rng.random(count),
    )


def equal(a: Detections, b: Detections) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("labels", "boxes", "scores"))


@given(found=detections())
def test_an_official_file_is_read_back_as_it_was(
    found: Detections, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "image.json"
    path.write_text(json.dumps(ecp_document(found)))
    assert equal(read_detections(path), found)


def frames(root: Path) -> list[tuple[Path, Any, Detections]]:
    return [
        (root / time / "img" / "test" / "rome" / f"rome_{index:05d}.png", None, some(index))
        for time in ("day", "night")
        for index in range(3)
    ]


def test_what_the_server_takes(tmp_path: Path) -> None:
    """A file an image, without detections, too; flat in the zip; the same zip whenever it is written."""
    dataset, found = Dataset("ecp", tmp_path / "data", 20), frames(tmp_path)
    for name in ("a", "b"):
        write_submission(tmp_path / name, dataset, "test", ("pedestrian", "rider"), found)
    for time in ("day", "night"):
        own = {image.stem: detected for image, _, detected in found if image.parents[3].name == time}
        files = {path.stem: read_detections(path) for path in (tmp_path / "a" / time).iterdir()}
        assert files.keys() == own.keys() and all(equal(files[name], own[name]) for name in own)
        with zipfile.ZipFile(tmp_path / "a" / f"{time}.zip") as archive:
            assert archive.namelist() == [f"{name}.json" for name in sorted(own)]
            for name in archive.namelist():
                assert archive.read(name) == (tmp_path / "a" / time / name).read_bytes()
        assert (tmp_path / "a" / f"{time}.zip").read_bytes() == (tmp_path / "b" / f"{time}.zip").read_bytes()
    assert pair_files(tmp_path / "a" / "day", tmp_path / "b" / "day")


def test_coco_reads_its_results(tmp_path: Path) -> None:
    dataset = write_coco(tmp_path / "data")
    found = [(tmp_path / f"{n}.jpg", 100 + n, some(n, 80)) for n in range(2)]
    write_submission(tmp_path / "out", dataset, "val", class_names(dataset), found)
    truth = COCO(str(dataset.root / "annotations" / "instances_val2017.json"))
    results = truth.loadRes(str(tmp_path / "out" / "detections.json"))
    (entry,) = results.dataset["annotations"]
    expected = found[1][2]
    x0, y0, x1, y1 = expected.boxes[0]
    assert entry["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0])
    assert entry["category_id"] == 2 * expected.labels[0] + 1 and entry["image_id"] == 101


def test_voc_has_a_file_a_class(tmp_path: Path) -> None:
    dataset = write_voc(tmp_path / "data")
    found = [(tmp_path / f"{n:06d}.jpg", f"{n:06d}", some(n, 20)) for n in range(4)]
    write_submission(tmp_path / "out", dataset, "val", class_names(dataset), found)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == sorted(f"comp4_det_test_{name}.txt" for name in class_names(dataset))
    lines = [line.split() for name in files for line in (tmp_path / "out" / name).read_text().splitlines()]
    assert len(lines) == sum(len(one[2].scores) for one in found)
    for stem, score, x0, _, _, _ in lines:
        own = found[int(stem)][2]
        row = int(np.argmin(abs(own.scores - float(score))))
        assert float(x0) == pytest.approx(own.boxes[row, 0] + 1, abs=1e-3)


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    dataset = Dataset("ecp", tmp_path / "data", 20)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    with pytest.raises(DataError, match="is there already"):
        write_submission(tmp_path / "there", dataset, "test", ("pedestrian", "rider"), frames(tmp_path))
    assert (tmp_path / "there" / "file").read_text() == "mine"
    bad = frames(tmp_path)
    bad.append((tmp_path / "day" / "img" / "test" / "rome" / ("x" * 300 + ".png"), None, some(1)))
    with pytest.raises(DataError, match="could not be written"):
        write_submission(tmp_path / "out", dataset, "test", ("pedestrian", "rider"), bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]
