"""The command line where nothing is trained: help, errors, architectures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spnas_hw import __version__
from spnas_hw.cli import app, main
from spnas_hw.errors import SpnasError

VERBS = [
    *("doctor", "arch", "profile", "export-workloads", "predict", "search", "export", "benchmark", "report"),
    *("data", "table", "run", "evaluate"),
]


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output and len(shown.output) > 200


def test_help_lists_every_verb() -> None:
    output = CliRunner().invoke(app, ["--help"]).output
    assert all(verb in output for verb in VERBS)


@pytest.mark.parametrize("arguments", [["nonsense"], ["arch"], ["arch", "r_1", "--nope"], ["search"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_arch_as_json() -> None:
    shown = CliRunner().invoke(app, ["arch", "r_111-2111-211111-211", "--input", "224x224", "--json"])
    found = json.loads(shown.output.splitlines()[-1])
    assert list(found) == ["code", "stages", "depth", "params", "macs"]
    keys = ["index", "blocks", "channels", "stride", "params", "macs", "branches", "own_weights"]
    assert list(found["stages"][0]) == keys
    assert found["code"] == "r_111-2111-211111-211_0-0-0-0"
    assert (found["depth"], found["params"]) == (16, 23_508_032)
    assert found["macs"] == pytest.approx(4.09e9, rel=2e-3)
    assert [stage["channels"] for stage in found["stages"]] == [256, 512, 1024, 2048]


def test_arch_for_people() -> None:
    shown = CliRunner().invoke(app, ["arch", "b_11-21-21-21_0-1-2o-0"], env={"COLUMNS": "120"})
    assert "2 own" in shown.output and "1024x1920" in shown.output
    shown = CliRunner().invoke(app, ["arch", "b_11-21-21-21"])
    assert "11.177" in shown.output


@pytest.mark.parametrize("code", ["", "q_11", "r_13-1", "r_" + "1" * 10_000, "r_1é"])
def test_a_bad_code_is_one_line(capsys, code: str) -> None:
    assert "position" in one_line(capsys, "arch", code)


@pytest.mark.parametrize("size", ["1024", "x", "1024x", "-1x5", "0x0", "1024x99999", "²x²", "1e3x64"])
def test_a_bad_size_is_one_line(capsys, size: str) -> None:
    assert repr(size) in one_line(capsys, "arch", "r_11", "--input", size)


def test_missing_things_are_one_line(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "demo" in one_line(capsys, "predict", "b16_11-21-21-21", "--config", "nowhere.yml")
    assert "spnas-hw profile" in one_line(capsys, "predict", "b16_11-21-21-21")
    assert "table.csv" in one_line(capsys, "predict", "b16_11-21-21-21", "--table", "nowhere")
    assert "no run folder" in one_line(capsys, "export", "runs/nothing")
    assert "no run folder" in one_line(capsys, "report", "runs/nothing")
    assert "no bundle" in one_line(capsys, "benchmark", "nothing")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("budget", ["0", "-3", "nan", "inf"])
def test_a_budget_that_is_none(capsys, budget: str) -> None:
    assert "above 0" in one_line(capsys, "search", "--latency-ms", budget)


def test_an_absent_gpu_says_what_is_there_and_what_to_do(capsys, monkeypatch) -> None:
    monkeypatch.setattr("profilers.nvml.devices", lambda: [])
    line = one_line(capsys, "profile", "--gpu", "V100")
    assert "V100" in line and "python -m profilers measure" in line


@pytest.mark.parametrize("arguments", [["--debug", "arch", "q"], ["arch", "q", "--debug"]])
def test_debug_shows_the_trace(arguments: list[str]) -> None:
    with pytest.raises(SpnasError):
        main(arguments)


def test_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).output.strip() == __version__


def test_programming_errors_are_not_hidden(monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("spnas_hw.description.describe", broken)
    with pytest.raises(ZeroDivisionError):
        main(["arch", "r_11"])


def test_what_the_system_refuses_is_one_line(capsys, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spnas_hw.description.describe", full)
    assert "No space left" in one_line(capsys, "arch", "r_11")


def test_interruption_says_how_to_go_on() -> None:
    program = (
        "import spnas_hw.pipeline.profile as p; from spnas_hw import cli\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "p.ensure_manifest = lambda *_: None; p.profile = stop\n"
        "cli.main(['profile'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 130 and "goes on" in done.stderr and "Traceback" not in done.stderr


def test_the_light_verbs_do_not_wake_torch() -> None:
    program = "import sys; from spnas_hw import cli; cli.app(['arch', 'r_11'], standalone_mode=False); "
    program += "assert not {'torch', 'mmdet', 'onnxruntime', 'pandas', 'scipy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
