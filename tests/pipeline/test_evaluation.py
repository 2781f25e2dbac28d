"""Runs and bundles are evaluated by the same code, which tells what the training was told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from spnas_hw.config import Dataset, build
from spnas_hw.detection.datasets import prepare
from spnas_hw.run import Run

from ..command import refused, spnas_hw, succeeded
from ..miniature import learned


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that learned something, its bundle, and a network trained fully."""
    folder = tmp_path_factory.mktemp("evaluate")
    learned(folder)
    succeeded(folder, "export", "runs/a")
    succeeded(folder, "train", "runs/a", "--epochs", "1")
    return folder


def evaluated(folder: Path, *words: str) -> dict[str, Any]:
    return json.loads(succeeded(folder, "evaluate", *words, "--json").splitlines()[-1])


def test_a_run_is_worth_what_its_journal_says(home: Path) -> None:
    found = evaluated(home, "runs/a")
    recorded = Run.open(home / "runs/a").winner().metrics
    assert found["images"] == 8 and found["detections"] > 0 and recorded["AP50"]
    assert {name: found["metrics"][name] for name in recorded} == pytest.approx(recorded, abs=1e-6)
    trained = Run.open(home / "runs/a").fully_trained()
    full = evaluated(home, "runs/a", "--fully-trained")["metrics"]
    assert trained is not None and full == pytest.approx(trained.metrics, abs=1e-6)


def test_a_bundle_is_worth_what_its_run_is(home: Path) -> None:
    run = evaluated(home, "runs/a")
    bundle = evaluated(home, "runs/a/bundle", "--dataset", "streets.yml")
    assert bundle["code"] == run["code"] and bundle["detections"] == run["detections"]
    assert bundle["metrics"] == pytest.approx(run["metrics"], abs=1e-4)
    shown = succeeded(home, "evaluate", "runs/a/bundle", "--dataset", "streets.yml", "--limit", "2")
    assert "on 2 images" in shown and "lamr/day_pedestrian_all" in shown


def test_streets_are_rendered_as_asked_for_and_never_another_number(home: Path) -> None:
    document = yaml.safe_load((home / "streets.yml").read_text())
    (home / "new.yml").write_text(yaml.safe_dump({**document, "root": "new", "train": 1, "val": 3}))
    assert evaluated(home, "runs/a", "--dataset", "new.yml")["images"] == 3
    (home / "fewer.yml").write_text(yaml.safe_dump({**document, "train": 12, "val": 5}))
    code, _, errors = spnas_hw(home, "evaluate", "runs/a", "--dataset", "fewer.yml")
    assert code == 1 and "holds 3 images more than the 17 asked for" in errors
    document = {**document, "root": "larger", "train": 1, "val": 2}
    prepare(build(Dataset, {**document, "root": str(home / "larger")}, "larger"), (96, 160))
    (home / "larger.yml").write_text(yaml.safe_dump(document))
    assert evaluated(home, "runs/a", "--dataset", "larger.yml")["images"] == 2


def test_what_was_only_trained_points_to_it(home: Path) -> None:
    succeeded(home, "train", "b4_11-2", "--config", "mini.yml", "--epochs", "1", "--run", "runs/only")
    for words in (("evaluate", "runs/only"), ("export", "runs/only"), ("report", "runs/only")):
        assert "takes --fully-trained" in refused(home, *words)


def ecp_standin(root: Path) -> Path:
    """A data set file of streets of the benchmark's size in its layout; two images are of a test split."""
    prepare(Dataset("streets", root, 20, 1, 6, 0), (1024, 1920))
    (root / "streets.json").unlink()
    images = root / "ECP" / "day" / "img"
    (images / "test" / "rome").mkdir(parents=True)
    for number, path in enumerate(sorted((images / "val").glob("*/*.png"))[:2]):
        shutil.copy(path, images / "test" / "rome" / f"rome_{number:05d}.png")
    path = root.parent / "ecp.yml"
    path.write_text(yaml.safe_dump({"type": "ecp", "root": str(root), "min_height_px": 20}))
    return path


def test_written_detections_have_the_lamr_that_was_told(home: Path, tmp_path: Path) -> None:
    data = ecp_standin(tmp_path / "data")
    told = evaluated(home, "runs/a", "--dataset", str(data), "--out", str(tmp_path / "out"))["metrics"]
    for time in ("day", "night"):
        labels = tmp_path / "data" / "ECP" / time / "labels" / "val"
        words = ("--ground-truth", str(labels), "--detections", str(tmp_path / "out" / time), "--json")
        results = json.loads(succeeded(home, "evaluate", "lamr", *words).splitlines()[-1])["results"]
        assert len(results) == 16
        for result in results:
            flag = "_ignore_other_vru" * result["ignore_other_vru"]
            name = f"lamr/{time}_{result['class']}_{result['subset']}{flag}"
            assert told.get(name) == (pytest.approx(result["lamr"]) if result["lamr"] is not None else None)
    again = refused(home, "evaluate", "runs/a", "--dataset", str(data), "--out", str(tmp_path / "out"))
    assert "is there already" in again

    test = evaluated(
        home, "runs/a", "--dataset", str(data), "--split", "test", "--out", str(tmp_path / "test")
    )
    assert test["metrics"] is None and test["images"] == 2
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == ["day", "day.zip"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("runs",), "runs is neither a run nor a bundle"),
        (("runs/a/bundle",), "a bundle knows no data: give --dataset"),
        (("runs/a/bundle", "--dataset", "voc"), "class 0 of the detector is 'pedestrian', in voc data"),
        (("runs/a/bundle", "--dataset", "streets.yml", "--baseline"), "holds one network"),
        (("runs/a", "--baseline"), "no trained baseline"),
        (("runs/a", "--runtime", "onnxruntime"), "for PyTorch"),
        (("runs/a", "--split", "test"), "has no split test"),
        (("runs/a", "--dataset", "nothing"), "no configuration 'nothing'"),
        (("runs/a", "--dataset", "ecp"), "no images in"),
        (("runs/a", "--out", "mini.yml/x"), "mini.yml is no folder that may be written to"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(home: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused(home, "evaluate", *words)


def test_a_bundle_that_was_altered_is_refused(home: Path) -> None:
    shutil.copytree(home / "runs/a/bundle", home / "altered")
    with open(home / "altered" / "model.onnx", "ab") as file:
        file.write(b"x")
    assert "sha256 differs" in refused(home, "evaluate", "altered", "--dataset", "streets.yml")
