"""`spnas-hw evaluate`: the command, from files to numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from spnas_hw.cli import app, main

KEYS = ["class", "subset", "ignore_other_vru", "lamr", "ground_truth"]
KEYS += ["detections", "true_positives", "false_positives"]


def person(x0: float, identity: str = "pedestrian", **more: Any) -> dict[str, Any]:
    return {"identity": identity, "x0": x0, "y0": 100, "x1": x0 + 40, "y1": 200, **more}


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Options that name two folders: 37 images, two pedestrians and a rider in one, one false detection."""
    labels = tmp_path / "day/labels/val/roma"
    detections = tmp_path / "detections"
    for folder in (labels, detections):
        folder.mkdir(parents=True)
        for index in range(37):
            (folder / f"roma_{index:05d}.json").write_text('{"identity": "frame", "children": []}')
    rider = person(700, "rider", tags=["truncated >10"], children=[person(720, "bicycle", orient=90.0)])
    people = [person(100, tags=["occluded>10"]), person(300, Orient=3), rider]
    found = [person(100, score=0.8), person(500, score=0.9), person(710, "rider", score=0.7)]
    for folder, children in ((labels, people), (detections, found)):
        frame = {"identity": "frame", "children": children}
        (folder / "roma_00020.json").write_text(json.dumps(frame))
    return ["--ground-truth", str(labels.parents[1]), "--detections", str(detections)]


def test_lamr_as_json(folders: list[str]) -> None:
    shown = CliRunner().invoke(app, ["evaluate", "lamr", *folders, "--json"])
    assert shown.exit_code == 0
    document = json.loads(shown.output.splitlines()[-1])
    assert list(document) == ["results"]
    results = document["results"]
    assert [list(result) for result in results] == [KEYS] * 16
    assert [(one["class"], one["subset"], one["ignore_other_vru"]) for one in results] == [
        (name, subset, ignore)
        for name in ("pedestrian", "rider")
        for subset in ("reasonable", "small", "occluded", "all")
        for ignore in (False, True)
    ]
    assert results[0]["lamr"] == pytest.approx(0.5832645198, rel=1e-9)
    assert [results[0][key] for key in KEYS[4:]] == [2, 2, 1, 1]
    assert results[2]["lamr"] is None and results[2]["ground_truth"] == 0
    assert results[8]["lamr"] == pytest.approx(1e-10)


@pytest.mark.parametrize("name", ["pedestrian", "rider"])
def test_one_class(folders: list[str], name: str) -> None:
    both = CliRunner().invoke(app, ["evaluate", "lamr", *folders, "--json"])
    one = CliRunner().invoke(app, ["evaluate", "lamr", *folders, "--class", name, "--json"])
    expected = [result for result in json.loads(both.output)["results"] if result["class"] == name]
    assert json.loads(one.output)["results"] == expected and len(expected) == 8


def test_lamr_for_people(folders: list[str]) -> None:
    shown = CliRunner().invoke(app, ["evaluate", "lamr", *folders]).output
    assert "37 images" in shown and "0.5833" in shown and "none" in shown
    assert sum("reasonable" in line for line in shown.splitlines()) == 4


def test_errors_are_one_line(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error() -> str:
        with pytest.raises(SystemExit) as caught:
            main(["evaluate", "lamr", *folders, "--json"])
        assert caught.value.code == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
        return captured.err

    broken = tmp_path / "detections/roma_00003.json"
    broken.write_text('{"identity": "frame", "children": [{"identity": "rider"}]}')
    assert f"{broken} is no ECP detection file: it lacks 'score'" in error()
    broken.unlink()
    assert "lacks 1 file (roma_00003.json)" in error()
    (tmp_path / "day/labels/val/roma/roma_00003.json").write_text("{")
    broken.write_text('{"children": []}')
    assert "roma_00003.json is no ECP label" in error()


@pytest.mark.parametrize("arguments", [[], ["--ground-truth", "."], ["--class", "bicycle"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["evaluate", "lamr", *arguments]).exit_code == 2


def test_no_framework_is_needed(folders: list[str]) -> None:
    program = "import sys\n"
    program += "for name in ('torch', 'mmdet', 'mmengine', 'mmcv', 'cv2'): sys.modules[name] = None\n"
    program += f"from spnas_hw.cli import main; main({['evaluate', 'lamr', *folders, '--json']!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["results"]) == 16
