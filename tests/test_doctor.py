from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from spnas_hw import doctor
from spnas_hw.cli import app


def test_a_complete_machine_is_healthy() -> None:
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0 and "torch" in shown.output


def without(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name == missing else real(name)
    )


def test_a_missing_package_names_its_command(monkeypatch) -> None:
    without(monkeypatch, "onnxruntime")
    (finding,) = [f for f in doctor.examine() if f.what == "onnxruntime"]
    assert not finding.ok and "pip install" in finding.remedy
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1


def test_mmcv_without_operators_is_found(monkeypatch) -> None:
    """It installs that way, without a word, where it finds no torch."""
    without(monkeypatch, "mmcv._ext")
    (finding,) = [f for f in doctor.examine() if f.what == "mmcv"]
    assert not finding.ok and "--no-build-isolation" in finding.remedy


def test_what_is_optional_does_not_fail(monkeypatch) -> None:
    without(monkeypatch, "tensorrt_rtx")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0
