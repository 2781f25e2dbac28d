"""`spnas-hw export` and `benchmark`: what a bundle holds, in every precision, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles import Installed, install

from spnas_hw.detection.inference import load_image
from spnas_hw.export.bundle import programs
from spnas_hw.pipeline.benchmark import _misfit
from spnas_hw.pipeline.evaluation import is_bundle

from .command import refused, spnas_hw, succeeded
from .miniature import learned

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that learned something."""
    folder = tmp_path_factory.mktemp("export")
    learned(folder)
    return folder


def exported(folder: Path, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the command says, and the metadata."""
    found = json.loads(succeeded(folder, "export", "runs/a", *words, "--json").splitlines()[-1])
    return found, json.loads((folder / found["bundle"] / "metadata.json").read_text())


def test_a_bundle_tells_what_it_is(home: Path) -> None:
    found, about = exported(home, "--out", "whole", "--images", "0")
    parity = about["parity"]["onnxruntime"]
    assert parity["exact"]["images"] == 8 and parity["exact"]["detections"] > 0
    assert parity["exact"]["agreement"] == 1.0 and parity["metric_error"] < 1e-4
    assert parity["metrics"].keys() == about["reference_metrics"].keys() >= {"mAP", "lamr/day_pedestrian_all"}
    assert about["latency"]["clock"].keys() >= {"median_ms", "p90_ms", "p99_ms"}
    assert about["input"].keys() >= {"shape", "mean", "std", "colour_order"}
    assert sorted(about["files"]) == ["infer.py", "model.onnx", "sample.ppm"]
    assert all(len(digest) == 64 for digest in about["files"].values())
    assert found["precision"] == about["precision"] == "fp32"
    shown = succeeded(home, "export", "runs/a", "--out", "whole", "--images", "3")
    assert "on 3 images" in shown and "predicted" not in shown.splitlines()[1] and "budget" not in shown


def test_the_program_of_a_bundle_finds_what_was_expected(home: Path, tmp_path: Path) -> None:
    """It needs nothing of this package, and any picture will do."""
    exported(home, "--out", "run")
    about = json.loads((home / "run/metadata.json").read_text())
    expected = about["sample"]
    program = [sys.executable, "-I", str(home / "run/infer.py")]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [about["classes"].index(row[0]) for row in rows] == expected["labels"] and rows
    found = np.array([[float(number) for number in row[1:]] for row in rows])
    np.testing.assert_allclose(found[:, 0], expected["scores"], atol=1e-3)
    np.testing.assert_allclose(found[:, 1:], expected["boxes"], atol=2e-2)
    drawn = (tmp_path / "sample_detections.ppm").read_bytes()
    assert drawn.startswith(b"P6 128 64 255\n") and len(drawn) == len((home / "run/sample.ppm").read_bytes())

    picture = next((home / "data").rglob("*.png"))  # needs Pillow, which matplotlib brings
    subprocess.run([*program, str(picture)], cwd=tmp_path, capture_output=True, check=True)
    assert (tmp_path / f"{picture.stem}_detections.ppm").exists()

    missing = subprocess.run([*program, "nothing.ppm"], cwd=tmp_path, capture_output=True, text=True)
    assert missing.returncode == 1 and missing.stderr.startswith("error: ")
    assert len(missing.stderr.splitlines()) == 1

    exported(home, "--out", "own", "--images", "2", "--sample", str(picture))
    own = np.frombuffer((home / "own/sample.ppm").read_bytes()[-64 * 128 * 3 :], np.uint8)
    assert (own.reshape(64, 128, 3) == load_image(picture)[:, :, ::-1]).all()


@pytest.mark.parametrize(
    ("runtime", "version"), [("tensorrt", "8.6"), ("tensorrt", "11.4"), ("tensorrt-rtx", None)]
)
def test_the_program_runs_the_engine(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str, version: str | None
) -> None:
    install(monkeypatch, runtime, version)
    out = f"engine-{runtime}-{version}"
    _, about = exported(home, "--out", out, "--runtime", runtime, "--images", "2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(home / out))
    monkeypatch.delitem(sys.modules, "engine_session", raising=False)

    def lines(*words: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["infer.py", *words])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(str(home / out / "infer.py"), run_name="__main__")
        return [line for line in printed.getvalue().splitlines() if "beside the point" not in line]

    assert lines("--engine") == lines() and len(lines()) == len(about["sample"]["labels"]) > 0
    for name, words in (("model.engine", ["--engine"]), ("model.onnx", [])):
        with open(home / out / name, "ab") as file:
            file.write(b"x")
        with pytest.raises(SystemExit, match=f"{name} is not the file that was exported"):
            lines(*words)


def test_the_program_resizes_as_training_did(tmp_path: Path) -> None:
    """To a grey level: OpenCV rounds in fixed point."""
    import cv2

    (tmp_path / "metadata.json").write_text("{}")
    names: dict[str, Any] = {"__file__": str(tmp_path / "infer.py"), "__name__": "infer"}
    program = programs(engine=False)["infer.py"]
    exec(compile(program, "infer.py", "exec"), names)
    picture = np.random.default_rng(0).integers(0, 256, (37, 90, 3), dtype=np.uint8)
    for height, width in ((64, 128), (20, 31), (37, 90)):
        rows = names["resized"](picture.astype(np.float32), height)
        ours = np.round(names["resized"](rows.swapaxes(0, 1), width).swapaxes(0, 1))
        theirs = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
        assert np.abs(ours - theirs).max() <= 1
    assert len(program.splitlines()) <= 80


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_are_compared_and_told(home: Path, precision: str) -> None:
    words = ("--precision", precision, "--calibration-images", "4")
    _, about = exported(home, "--out", precision, *words)
    parity = about["parity"]["onnxruntime"]
    assert about["precision"] == precision and parity["metrics"] != {}
    assert parity["close"]["matched"] >= parity["exact"]["matched"] and parity["close"]["detections"] > 0
    assert "reference_metrics" in about and parity["metric_error"] >= 0
    assert "mAP" in succeeded(home, "export", "runs/a", "--out", precision, *words)


@pytest.mark.parametrize("compute_capability", ["8.6", "8.9"])
def test_an_engine_is_built_without_a_gpu(home: Path, compute_capability: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    _, about = exported(home, "--out", "rtx", "--compute-capability", compute_capability)
    engine = about["engine"]
    assert (engine["runtime"], engine["compute_capability"]) == ("tensorrt-rtx", compute_capability)
    assert (engine["precision"], engine["scope"]) == ("fp32", "whole detector")
    assert (home / "rtx/model.engine").stat().st_size > 10_000


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Installed:
    return install(monkeypatch, "tensorrt")


def test_what_is_measured_is_the_engine_that_is_shipped(home: Path, tensorrt: Installed) -> None:
    found, about = exported(home, "--out", "trt", "--runtime", "tensorrt", "--hardware", "ampere+")
    assert found["parity"].keys() == {"onnxruntime", "tensorrt"}
    assert about["engine"]["runtime"] == about["latency"]["backend"]["runtime"] == "tensorrt"
    assert about["engine"]["hardware"] == "ampere+" and about["engine"]["compute_capability"] == "8.6"
    detectors = [built for built in tensorrt.builds if built.hardware == "AMPERE_PLUS"]
    again = json.loads(
        succeeded(home, "benchmark", "trt", "--runtime", "tensorrt", "--json").splitlines()[-1]
    )
    assert again["measured"]["raw"]["median_ms"] > 0 and again["note"] is None
    assert [built for built in tensorrt.builds if built.hardware == "AMPERE_PLUS"] == detectors
    words = ("--runtime", "tensorrt", "--dataset", "streets.yml")
    assert "detections on 8 images" in succeeded(home, "evaluate", "trt", *words)

    with open(home / "trt/model.engine", "ab") as file:
        file.write(b"x")
    for command in (("benchmark", "trt"), ("evaluate", "trt", "--dataset", "streets.yml")):
        assert "model.engine is not the file that was exported" in refused(
            home, *command, "--runtime", "tensorrt"
        )


def test_an_engine_for_something_else_is_not_loaded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "tensorrt", "10.4")
    exported(home, "--out", "old", "--runtime", "tensorrt")
    install(monkeypatch, "tensorrt", "10.16")
    shown = succeeded(home, "benchmark", "old", "--runtime", "tensorrt")
    told = "engine is for runtime_version 10.4.0, here it is 10.16.1.11: built anew from model.onnx"
    assert told in shown
    words = ("--runtime", "tensorrt", "--dataset", "streets.yml", "--limit", "2")
    assert told in spnas_hw(home, "evaluate", "old", *words)[2]


def test_over_its_budget_a_bundle_says_so_again(home: Path) -> None:
    exported(home, "--out", "slow")
    path = home / "slow/metadata.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "budget": {**about["budget"], "latency_ms": 1e-6}}))
    assert "above its budget of 1e-06 ms" in refused(home, "benchmark", "slow")
    succeeded(home, "benchmark", "slow", "--allow-over-budget")
    code, _, _ = spnas_hw(home, "benchmark", "slow", "--threads", "2", "--allow-over-budget")
    assert code == 0


def test_a_budget_is_held_where_its_target_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the bundle was made."""
    exported(home, "--out", "there", "--images", "2")
    gpu = install(monkeypatch, "tensorrt").gpu
    path = home / "there/metadata.json"
    about = json.loads(path.read_text())
    target = {"device": gpu.devices[0][0], "runtime": "tensorrt", "threads": None}
    about["budget"]["latency_ms"], about["latency"]["target"] = 1e-6, target
    path.write_text(json.dumps(about))
    assert "above its budget" in refused(home, "benchmark", "there", "--runtime", "tensorrt")
    succeeded(home, "benchmark", "there")


@pytest.mark.parametrize(
    ("built", "here", "fits"),
    [
        ({}, {}, True),
        ({}, {"runtime_version": "10.5.0"}, False),
        ({"version_compatible": "yes"}, {"runtime_version": "10.5.0"}, True),
        ({"version_compatible": "yes"}, {"runtime_version": "10.3.0"}, False),
        ({"version_compatible": "yes"}, {"runtime_version": "11.0.0"}, False),
        ({}, {"compute_capability": "8.9"}, False),
        ({"hardware": "same-compute-capability"}, {"compute_capability": "8.9"}, False),
        ({"hardware": "ampere+"}, {"compute_capability": "8.9"}, True),
        ({"hardware": "ampere+"}, {"compute_capability": "7.5"}, False),
        ({"hardware": "ampere+"}, {"runtime": "tensorrt-rtx"}, False),
    ],
)
def test_an_engine_fits_what_it_was_built_for(
    built: dict[str, Any], here: dict[str, Any], fits: bool
) -> None:
    engine = {"runtime": "tensorrt", "runtime_version": "10.4.0", "compute_capability": "8.6"}
    assert (_misfit(engine | built, engine | here) is None) is fits


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--runtime", "tensorrt"), "TensorRT is missing"),
        (("--runtime", "nonsense"), "no runtime 'nonsense'"),
        (("--compute-capability", "9.9"), "does not build for compute capability '9.9'"),
        (("--hardware", "ampere+"), "add --runtime tensorrt"),
        (("--runtime", "onnxruntime", "--version-compatible"), "not 'version_compatible'"),
        (("--baseline",), "no trained baseline"),
        (("--baseline", "--fully-trained"), "exclude each other"),
        (("--sample", "mini.yml"), "mini.yml is no readable image"),
        (("--out", "mini.yml"), "mini.yml is a file"),
        (("--out", "data"), "holds something that is no bundle"),
    ],
)
def test_what_cannot_be_exported_is_one_line(home: Path, words: tuple[str, ...], message: str) -> None:
    assert message in last_line(home, *words)
    assert not is_left(home)


def test_an_operator_that_cannot_be_built_is_named(home: Path, tensorrt: Installed) -> None:
    tensorrt.faults.unsupported.add("TopK")
    assert "operator TopK" in last_line(home, "--runtime", "tensorrt", "--out", "unsupported")
    assert not is_left(home) and not (home / "unsupported").exists()


def test_a_full_disk_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == "infer.py":
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "No space left on device" in last_line(home, "--out", "full")
    assert not is_left(home) and not (home / "full").exists()


def test_a_detector_that_disagrees_is_not_shipped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In FLOAT32 even a little is a mistake somewhere."""
    from spnas_hw.detection import inference

    right = inference.detect

    def wrong(model: Any, image: Any) -> Any:
        boxes, scores, labels = right(model, image)
        return boxes + 0.02, scores, labels

    monkeypatch.setattr(inference, "detect", wrong)
    assert "detections of the exported detector agree with PyTorch" in last_line(home, "--out", "wrong")
    assert not (home / "wrong").exists()


def last_line(folder: Path, *words: str) -> str:
    code, _, errors = spnas_hw(folder, "export", "runs/a", *words)
    line = errors.strip().splitlines()[-1]
    assert code == 1 and line.startswith("error: "), errors
    return line


def is_left(folder: Path) -> bool:
    """Whether something half-written lies about."""
    return any(path.name.startswith(".") for path in folder.iterdir())


def test_half_a_bundle_is_none(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text("{")
    assert is_bundle(tmp_path) and "is damaged" in refused(tmp_path, "benchmark", str(tmp_path))
