"""The whole job in miniature, through the command line: real measuring, training, export."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from profilers.table import LatencyTable
from spnas_hw.errors import ExportError, OverBudget
from spnas_hw.pipeline.remeasure import remeasure, require_one, unmeasured
from spnas_hw.run import Run
from spnas_hw.search.remeasured import write_remeasured

from .command import refused, succeeded
from .miniature import MINIATURE

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and its measured table."""
    folder = tmp_path_factory.mktemp("corridor")
    (folder / "mini.yml").write_text(yaml.safe_dump(MINIATURE))
    words = ("profile", "--config", "mini.yml", "--calibration", "4")
    program = [sys.executable, "-m", "spnas_hw.cli", *words]  # as a person starts it
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0 and "workloads on" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def searched(home: Path) -> Path:
    """The folder after a search of two candidates a phase that was resumed for a third serial one, with its
    baseline."""
    search = ("search", "--config", "mini.yml", "--latency-ms", "1000", "--run", "runs/a")
    succeeded(home, *search, "--max-sample", "2")
    assert "already holds a search" in refused(home, *search)
    assert "winner b4_" in succeeded(home, *search, "--resume", "--baseline")
    return home


def test_the_table_is_complete_and_predicts(home: Path) -> None:
    (table,) = (home / "latency_tables").glob("*/table.csv")
    with open(table) as file:
        rows = list(csv.DictReader(file))
    assert rows and all(row["status"] == "ok" for row in rows)
    found = json.loads(
        succeeded(home, "predict", "b4_1111-2", "--config", "mini.yml", "--json").splitlines()[-1]
    )
    assert 0 < found["latency_ms"] < 100 and found["table"] == table.parent.name
    smaller = json.loads(succeeded(home, "predict", "b4_11-2", "--config", "mini.yml", "--json"))
    assert smaller["latency_ms"] < found["latency_ms"] and smaller["macs"] < found["macs"]


def test_a_second_profiling_costs_nothing(home: Path) -> None:
    (table,) = (home / "latency_tables").glob("*/table.csv")
    before = table.stat().st_mtime_ns
    words = ("--config", "mini.yml", "--calibration", "4", "--json")
    shown = json.loads(succeeded(home, "profile", *words).splitlines()[-1])
    assert shown["table"] == f"latency_tables/{table.parent.name}" and shown["failures"] == {}
    assert table.stat().st_mtime_ns == before


def test_predictions_are_held_against_whole_detectors(home: Path) -> None:
    validated = ("predict", "--validate", "3", "--parallel", "--config", "mini.yml", "--json")
    proof = json.loads(succeeded(home, *validated))
    assert any(not network["code"].endswith("_0-0") for network in proof["networks"])
    assert proof["prediction"]["count"] == len(proof["networks"]) == 3
    for network in proof["networks"]:
        assert len(network["passes_ms"]) == 3
        assert (
            0.2 < network["predicted_ms"] / network["measured_ms"] < 5
        )  # no claim: tiny networks, busy machine


def test_a_table_goes_to_another_device_and_back(home: Path) -> None:
    """The other device is the fake one: it takes the same road, and no time."""
    words = ("export-workloads", "build/workloads/mini-fp32", "--config", "mini.yml", "--calibration", "4")
    manifest = succeeded(home, *words).strip()
    program = [sys.executable, "-m", "profilers", "measure", manifest, "--runtime", "fake", "--out", "there"]
    done = subprocess.run(program, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = done.stdout.strip()
    assert folder in succeeded(home, "table", "check", folder)
    assert succeeded(home, "table", "import", folder, "--out", "here").strip().endswith(Path(folder).name)
    code = ("predict", "b4_11-2", "--config", "mini.yml", "--json", "--table", f"here/{Path(folder).name}")
    assert json.loads(succeeded(home, *code))["estimated"] is False


def test_an_estimate_says_so_everywhere(home: Path) -> None:
    words = ("--config", "mini.yml", "--out", "guess", "--json")
    made = json.loads(succeeded(home, "profile", "--gpu", "V100", "--estimate", *words).splitlines()[-1])
    table = ("--config", "mini.yml", "--table", made["table"])
    assert "estimated" in succeeded(home, "predict", "b4_11-2", *table)
    assert "estimated" in refused(home, "predict", "--validate", "3", *table)
    assert "estimated" in succeeded(home, "table", "show", made["table"])


def test_the_run_folder(searched: Path) -> None:
    run = searched / "runs" / "a"
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert [line["trial_id"] for line in lines[1:]] == [0, 1, 2, 3, 4]
    assert [line["status"] for line in lines[1:]] == ["ok"] * 5
    assert [line["phase"] for line in lines[1:]] == ["serial"] * 2 + ["parallel"] * 2 + ["serial"]
    assert lines[1]["iterations"] == 4 and lines[2]["iterations"] == 6
    for name, trials in (("total_list_s.csv", 3), ("total_list_p.csv", 2)):
        with open(run / name) as file:
            assert len(list(csv.DictReader(file))) == trials
    assert (run / "pareto_front.csv").exists()
    for line in lines[1:]:
        assert "coco/bbox_mAP" in (run / "trials" / f"{line['trial_id']:04d}" / "train.log").read_text()
    assert (run / "trials" / "0000" / "weights.safetensors").exists()


def test_export_measures_and_verifies(searched: Path) -> None:
    arguments = ("--out", "bundles/a", "--compute-capability", "8.9", "--json")
    output = succeeded(searched, "export", "runs/a", *arguments)
    found = json.loads(output.splitlines()[-1])
    bundle = searched / found["bundle"]
    metadata = json.loads((bundle / "metadata.json").read_text())
    files = ["engine_session.py", "infer.py", "model.engine", "model.onnx", "sample.ppm"]
    assert sorted(metadata["files"]) == files
    assert metadata["engine"]["compute_capability"] == "8.9"
    assert metadata["latency"]["clock"]["median_ms"] == found["measured_latency_ms"] > 0
    assert metadata["latency"]["note"] is None
    parity = metadata["parity"]["onnxruntime"]
    assert parity["exact"]["images"] == 4 and parity["metric_error"] < 1e-4
    assert parity["exact"]["matched"] == parity["exact"]["detections"]
    assert "median" in succeeded(searched, "benchmark", found["bundle"])

    (bundle / "model.onnx").write_bytes(b"something else")
    assert "sha256" in refused(searched, "benchmark", found["bundle"])


def test_report(searched: Path) -> None:
    succeeded(searched, "export", "runs/a", "--baseline")
    found = json.loads(succeeded(searched, "report", "runs/a", "--json").splitlines()[-1])
    assert (searched / found["figure"]).read_bytes().startswith(b"\x89PNG")
    baseline, winner = found["rows"]
    assert baseline["code"] == "b4_11-2_0-0" and baseline["measured_latency_ms"] > 0
    assert baseline["iterations"] >= winner["iterations"]
    assert "baseline" in succeeded(searched, "report", "runs/a")


def test_a_half_precision_table_ships_a_half_precision_detector(searched: Path) -> None:
    """The latencies of the table do not matter here, its precision does."""
    (measured,) = (searched / "latency_tables").iterdir()
    table = LatencyTable.read(measured)
    half = table.provenance.model_copy(update={"precision": "fp16"})
    LatencyTable(half, table.rows).write(searched / "half")
    other = copied_run(searched, "half", lambda header: header.update(table_folder=str(searched / "half")))
    bundle = searched / json.loads(succeeded(searched, "export", other, "--json").splitlines()[-1])["bundle"]
    assert json.loads((bundle / "metadata.json").read_text())["precision"] == "fp16"
    weights = onnx.load(bundle / "model.onnx").graph.initializer
    assert any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in weights)


def copied_run(searched: Path, name: str, change: Callable[[dict[str, Any]], object]) -> str:
    """The run with another header; returns its folder."""
    header, *trials = (searched / "runs" / "a" / "journal.jsonl").read_text().splitlines()
    document = json.loads(header)
    change(document)
    other = searched / "runs" / name
    other.mkdir()
    (other / "trials").symlink_to(searched / "runs" / "a" / "trials")
    (other / "journal.jsonl").write_text("\n".join([json.dumps(document), *trials]) + "\n")
    return f"runs/{name}"


def test_over_budget_is_said_and_exits_non_zero(searched: Path) -> None:
    tight = copied_run(searched, "tight", lambda header: header["budget"].update(latency_ms=1e-6))
    assert "above the budget of 1e-06 ms" in refused(searched, "export", tight)
    succeeded(searched, "export", tight, "--allow-over-budget")


def test_the_best_are_measured_whole_before_the_winner_is_declared(searched: Path) -> None:
    folder = copied_run(searched, "remeasured", lambda header: None)
    search = ("search", "--config", "mini.yml", "--latency-ms", "1000", "--run", folder, "--resume")
    found = json.loads(succeeded(searched, *search, "--remeasure", "2", "--json").splitlines()[-1])
    with open(searched / folder / "remeasured.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["arch"] for row in rows] == [row["arch"] for row in found["remeasured"]]
    assert len(rows) == 2 and all(row["status"] == "ok" for row in rows)
    assert found["winner"]["code"] == rows[0]["arch"]
    for row in rows:
        assert 0 < float(row["measured_latency_ms"]) <= float(row["measured_p99_ms"])
        assert float(row["predicted_latency_ms"]) > 0
    reported = json.loads(succeeded(searched, "report", folder, "--json"))["rows"][-1]
    assert reported["measured_latency_ms"] == float(rows[0]["measured_latency_ms"])
    shown = succeeded(searched, *search, "--remeasure", "1")
    assert f"winner {rows[0]['arch']}" in shown
    assert len((searched / folder / "remeasured.csv").read_text().splitlines()) == 3


def test_the_winner_is_within_the_budget_when_measured_whole(searched: Path) -> None:
    folder = copied_run(searched, "slow", lambda header: header["budget"].update(latency_ms=1e-6))
    run = Run.open(searched / folder)
    first = run.winner()
    rows = remeasure(run, 2)
    assert len(rows) == 2 and {row.status for row in rows} <= {"over budget", "disturbed"}
    with pytest.raises(OverBudget, match=r"none of the best 2 is within 1e-06 ms .* search with more"):
        require_one(rows, 1e-6)
    assert "nothing of" in refused(searched, "export", folder)
    write_remeasured(run.folder, [rows[0], replace(rows[1], status="ok")])
    assert run.winner().code == rows[1].arch != first.code
    assert unmeasured(run) is None
    write_remeasured(run.folder, [replace(rows[1], status="ok")])
    assert first.code in unmeasured(run)


def test_what_cannot_be_shipped_is_no_winner(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spnas_hw.export import detector

    run = Run.open(searched / copied_run(searched, "broken", lambda header: None))
    first, trace, asked = run.winner(), detector.detector_onnx, []

    def fails_once(*arguments: Any) -> Any:
        asked.append(1)
        if len(asked) == 1:
            raise ExportError("no")
        return trace(*arguments)

    monkeypatch.setattr(detector, "detector_onnx", fails_once)
    rows = remeasure(run, 2)
    assert [row.status for row in rows] == ["failed", "ok"] and rows[0].measured_latency_ms is None
    assert rows[0].arch == first.code and run.winner().code == rows[1].arch
    with pytest.raises(OverBudget, match=r"none of the best 1 could be measured whole"):
        require_one(rows[:1], None)


def test_what_has_no_prediction_is_not_measured_again(home: Path) -> None:
    search = ("search", "--config", "mini.yml", "--macs", "1e9", "--run", "runs/untimed")
    assert "no latency table" in refused(home, *search, "--remeasure", "2")
    assert not (home / "runs/untimed").exists()


def test_any_limit_is_a_budget_and_the_phases_follow_each_other(home: Path) -> None:
    """Without a latency there is no table, and MACs take its place in the report."""
    search = ("search", "--config", "mini.yml", "--macs", "1e9", "--depth", "5", "--run", "runs/both")
    shown = succeeded(home, *search, "--json").splitlines()[-1]
    assert json.loads(shown)["trials"] == 5 and json.loads(shown)["winner"]["code"].startswith("b4_")
    lines = (home / "runs/both/journal.jsonl").read_text().splitlines()
    trials = [json.loads(line) for line in lines[1:]]
    assert [trial["phase"] for trial in trials] == ["serial"] * 3 + ["parallel"] * 2
    assert all(trial["latency_ms"] is None and trial["code"] for trial in trials)
    best = max(trials[:3], key=lambda trial: trial["metrics"]["mAP"])
    assert {trial["parent_code"] for trial in trials[3:]} == {best["code"]}
    for name, count in (("total_list_s.csv", 3), ("total_list_p.csv", 2)):
        with open(home / "runs/both" / name) as file:
            assert len(list(csv.DictReader(file))) == count
    found = json.loads(succeeded(home, "report", "runs/both", "--json").splitlines()[-1])
    assert (home / found["figure"]).exists()
    exported = json.loads(succeeded(home, "export", "runs/both", "--json").splitlines()[-1])
    assert "no latency table" in exported["note"]


def test_the_binding_limit_is_named(home: Path) -> None:
    for limit, word in (("--macs", "MACs"), ("--params", "parameters"), ("--memory-mb", "memory")):
        line = refused(home, "search", "--config", "mini.yml", limit, "0.01", "--run", "runs/none")
        assert word in line and "smallest reachable is" in line
    line = refused(home, "search", "--config", "mini.yml", "--depth", "2", "--run", "runs/none")
    assert "depth" in line and "the smallest is 3" in line


def test_an_impossible_budget_names_the_smallest_reachable(home: Path) -> None:
    line = refused(home, "search", "--config", "mini.yml", "--latency-ms", "0.01", "--run", "runs/none")
    assert "smallest reachable is" in line and "b4_" in line
    assert not (home / "runs" / "none").exists()


def test_a_table_of_another_input_size_is_refused(home: Path) -> None:
    (home / "larger.yml").write_text(yaml.safe_dump({**MINIATURE, "input_height": 96}))
    line = refused(home, "predict", "b4_11-2", "--config", "larger.yml")
    assert "input_height 64, not 96" in line


def test_an_unmeasured_architecture_is_refused_never_guessed(home: Path) -> None:
    assert "no row for" in refused(home, "predict", "b8_11-2", "--config", "mini.yml")


@pytest.mark.parametrize("damage", ["cut", "edited", "gone"])
def test_a_corrupt_table_is_one_line(home: Path, tmp_path: Path, damage: str) -> None:
    (source,) = (home / "latency_tables").iterdir()
    table = tmp_path / "table"
    table.mkdir()
    for file in source.iterdir():
        (table / file.name).write_bytes(file.read_bytes())
    content = (table / "table.csv").read_bytes()
    if damage == "gone":
        (table / "table.csv").unlink()
    else:
        (table / "table.csv").write_bytes(
            content[:-40] if damage == "cut" else content.replace(b"ok", b"on", 1)
        )
    line = refused(home, "predict", "b4_11-2", "--config", "mini.yml", "--table", str(table))
    assert "table.csv" in line


def test_a_search_starts_from_a_run_or_a_code(searched: Path) -> None:
    limit = ("search", "--config", "mini.yml", "--latency-ms", "1000", "--max-sample", "1")
    best = trial_of(searched / "runs/a", phase="serial")
    succeeded(searched, *limit, "--run", "runs/on", "--phase", "parallel", "--from", "runs/a")
    adopted, stacked = journal(searched / "runs/on")
    assert (adopted["code"], adopted["metrics"]) == (best["code"], best["metrics"])
    assert (stacked["parent_id"], stacked["phase"]) == (0, "parallel")
    assert stacked["iterations"] == best["iterations"] + 2
    assert 0 < adopted["latency_ms"] < stacked["latency_ms"]
    code = ("--run", "runs/code", "--phase", "parallel", "--from", "b4_11-2")
    succeeded(searched, *limit, *code)  # it is trained first
    succeeded(searched, *limit[:-1], "2", *code, "--resume")
    seed, stacked = journal(searched / "runs/code")
    assert (seed["code"], seed["operator"], stacked["parent_id"]) == ("b4_11-2_0-0", "seed", 0)
    serial = (*limit[:-1], "2", "--run", "runs/grown", "--phase", "serial", "--from", "runs/a")
    succeeded(searched, *serial)
    assert journal(searched / "runs/grown")[1]["parent_id"] == 0


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("b4_11-2_0-1", "has sub-networks already, give the serial network"),
        ("b4_11-2_0-4", "at position 10: expected a number of branches, 0 to 3"),
        ("b4_11-2_0", "the parallel part must name 2 stages"),
        ("b4_11-2_0-1-1", "the parallel part must name 2 stages"),
        ("b4_11-2_o-1", "expected a number of branches"),
        ("b4_-2", "a stage needs at least one block"),
        ("b8_11-2", "cannot start from b8_11-2_0-0: unmeasured workload"),
        ("nowhere", "it must start with b"),
    ],
)
def test_a_bad_start_is_one_clear_line(home: Path, start: str, message: str) -> None:
    search = ("search", "--config", "mini.yml", "--latency-ms", "1000", "--phase", "parallel")
    assert message in refused(home, *search, "--run", "runs/bad", "--from", start)
    assert not (home / "runs/bad").exists()


def journal(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()[1:]]


def trial_of(run: Path, phase: str) -> dict[str, Any]:
    """The best of a phase."""
    return max((t for t in journal(run) if t["phase"] == phase), key=lambda t: t["metrics"]["mAP"])
