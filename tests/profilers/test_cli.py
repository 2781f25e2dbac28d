from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx_parts import chain, conv, manifest

from profilers import cli
from profilers.errors import InvalidManifest
from profilers.table import LatencyTable


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["profilers", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_measure_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(tmp_path, {"b": conv()}, {"b": chain("b")})
    assert (
        command(monkeypatch, "measure", str(tmp_path), "--runtime", "fake", "--out", str(tmp_path / "out"))
        == 0
    )
    shown = capsys.readouterr()
    folder = Path(shown.out.strip())
    assert set(LatencyTable.read(folder).costs()) == {"b"}
    assert "1 workloads measured, 0 failed" in shown.err


def test_error_is_one_line_and_exit_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, "measure", str(tmp_path), "--runtime", "fake") == 1
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1


def test_debug_shows_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["profilers", "measure", str(tmp_path), "--runtime", "fake", "--debug"])
    with pytest.raises(InvalidManifest):
        cli.main()


def test_wrong_usage_is_exit_2(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "weigh") == 2
    assert "weigh" in capsys.readouterr().err


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "profilers", "devices"], capture_output=True, text=True, check=True
    )
    assert "processors" in done.stdout


def test_interrupted_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "measure_manifest", interrupted)
    manifest(tmp_path, {"b": conv()}, {"b": chain("b")})
    assert command(monkeypatch, "measure", str(tmp_path), "--runtime", "fake") == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_options_a_runtime_does_not_take_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest(tmp_path, {"b": conv()}, {"b": chain("b")})
    assert command(monkeypatch, "measure", str(tmp_path), "--runtime", "fake", "--threads", "2") == 1
    assert "not 'threads'" in capsys.readouterr().err
