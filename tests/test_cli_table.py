"""`spnas-hw table` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from profilers.errors import InvalidTable
from profilers.table import LatencyTable, Provenance, Row
from spnas_hw.cli_table import WIDTH, table_app

PROVENANCE = Provenance(
    device="Intel(R) [x] CPU",
    runtime="onnxruntime",
    runtime_version="1.32.0",
    precision="fp32",
    batch=1,
    input_height=192,
    input_width=384,
    threads=1,
    reference_ms=2.0,
    date="2030-01-02T03:04:05Z",
    space_hash="s",
    manifest_sha256="0123456789abcdef" * 4,
    tool_version="1",
    environment={"cpu": "x"},
)
LONGEST = "roi_head-5x256-1024x1920-1000p7s0-1024-12c-connection-2048"
ROWS = (
    Row("b", "ok", latency_ms=2.0, latency_ci_ms=0.1, coefficient_of_variation=0.03, samples=20),
    Row(
        LONGEST, "ok", latency_ms=12345.6789, latency_ci_ms=0.1, coefficient_of_variation=0.25, median_ms=2e4
    ),
    Row("a", "ok", latency_ms=1.0, latency_ci_ms=0.01, weights_bytes=64, note="kernels [1x1] fused"),
    Row("broken", "failed", reason="Conv [/red] of [1,3,8,8] is not supported"),
)


def written(folder: Path, *rows: Row, **changes: object) -> str:
    LatencyTable(PROVENANCE.model_copy(update=changes), rows or ROWS).write(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return written(tmp_path / "one")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(table_app, list(arguments))


def text(*arguments: str, code: int = 0) -> str:
    done = run(*arguments)
    assert done.exit_code == code, (done.output, done.exception)
    assert all(len(line) <= WIDTH for line in done.output.splitlines()), done.output
    return done.output


def document(*arguments: str, code: int = 0) -> dict:
    done = run(*arguments, "--json")
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.output.splitlines()[-1])


@pytest.mark.parametrize("verb", ["show", "check", "diff", "import"])
def test_every_verb_explains_itself(verb: str) -> None:
    shown = run(verb, "--help")
    assert shown.exit_code == 0 and "Usage" in shown.output and len(shown.output) > 200


def test_show(folder: str) -> None:
    shown = text("show", folder)
    for words in ("Intel(R) [x] CPU", "onnxruntime 1.32.0", "192x384", "2030-01-02", "2.0000 ms", "measured"):
        assert words in shown
    assert "kernels [1x1] fused" in shown and "Conv [/red] of [1,3,8,8]" in shown
    assert "4 rows, 1 failed, sum 12348.679 ms" in shown
    assert "quietest: b, coefficient of variation 3.0%" in shown and f"noisiest: {LONGEST}" in shown
    assert "weights_bytes" not in shown and "weights_bytes" in run("show", folder, "--all").output


def test_show_sorts(folder: str) -> None:
    def keys(*options: str) -> list[str]:
        return [row["key"] for row in document("show", folder, *options)["rows"]]

    assert keys() == [row.key for row in ROWS]
    assert keys("--sort", "key") == sorted(row.key for row in ROWS)
    assert keys("--sort", "latency") == [LONGEST, "b", "a", "broken"]
    assert keys("--failed") == ["broken"]
    assert run("show", folder, "--sort", "colour").exit_code == 2


def test_show_failed_only(folder: str) -> None:
    shown = text("show", folder, "--failed")
    assert "failed broken: Conv" in shown and LONGEST not in shown.split("4 rows")[0]


def test_show_as_json_has_every_column(folder: str) -> None:
    found = document("show", folder)
    assert found["provenance"]["device"] == PROVENANCE.device
    assert found["rows"][2]["weights_bytes"] == 64 and found["rows"][2]["samples"] is None
    assert found["summary"]["failed"] == 1


def test_show_says_what_is_estimated(tmp_path: Path) -> None:
    shown = text(
        "show", written(tmp_path / "e", estimated=True, threads=None, reference_ms=None, manifest_sha256=None)
    )
    assert "estimated from a data sheet, nothing was measured" in shown and "threads" not in shown


def test_check(folder: str, tmp_path: Path) -> None:
    assert f"{folder}: sound, 4 rows measured, 1 failed" in run("check", folder).output
    other = tmp_path / "other"
    written(other)
    (other / "table.csv").write_text((other / "table.csv").read_text().replace("1.0", "nan", 1))
    done = run("check", folder, str(other))
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert "sound" in lines[0] and "row 'a': latency_ms is nan" in lines[1] and "sha256" in lines[2]
    found = document("check", folder, str(other), code=1)["tables"]
    assert [table["sound"] for table in found] == [True, False] and len(found[1]["problems"]) == 2
    assert run("check").exit_code == 2


def test_check_of_nothing(tmp_path: Path) -> None:
    done = run("check", str(tmp_path / "nowhere"))
    assert done.exit_code == 1 and "cannot read table.csv" in done.output


def test_diff_of_a_table_with_itself(folder: str) -> None:
    shown = text("diff", folder, folder)
    assert "4 keys in both, 0 differ" in shown and "median 1.000" in shown and "only in" not in shown
    text("diff", folder, folder, "--threshold", "0")
    found = document("diff", folder, folder, "--threshold", "0")
    assert found["rows"] == [] and found["provenance"] == {} and found["median_ratio"] == 1.0


@pytest.fixture
def second(tmp_path: Path) -> str:
    rows = (
        Row("b", "ok", latency_ms=3.0, latency_ci_ms=0.1),
        Row(LONGEST, "failed", reason="no memory"),
        Row("a", "ok", latency_ms=1.005, latency_ci_ms=0.01),
        Row("new", "ok", latency_ms=1.0, latency_ci_ms=0.01),
    )
    return written(tmp_path / "two", *rows, reference_ms=2.2, manifest_sha256="f" * 64)


def test_diff_side_by_side(folder: str, second: str) -> None:
    shown = text("diff", folder, second)
    (row,) = [line.split() for line in shown.splitlines() if line.startswith(" b ")]
    assert row == ["b", "2.0000", "0.1000", "3.0000", "0.1000", "1.500", "slower"]
    (row,) = [line.split() for line in shown.splitlines() if line.startswith(" a ")]
    assert row[-2:] == ["1.005", "~"]
    assert "only in A: broken" in shown and "only in B: new" in shown
    assert "3 keys in both, 2 differ" in shown and "worst 1.500 (b)" in shown
    assert "reference network: B/A 1.100" in shown
    assert (
        "reference_ms" in shown
        and "012345...abcdef" in shown
        and "ffffff...ffffff" in shown
        and "space_hash" not in shown
    )


def test_diff_of_tables_of_two_spaces_is_not_flooded(folder: str, tmp_path: Path) -> None:
    many = written(
        tmp_path / "m", *(Row(f"k{i}", "ok", latency_ms=1.0, latency_ci_ms=0.1) for i in range(40))
    )
    shown = text("diff", folder, many)
    assert shown.count("only in B") == 11 and "only in B: 30 more, listed with --json" in shown
    assert "0 keys in both" in shown and len(document("diff", folder, many)["only_b"]) == 40


def test_diff_beyond_a_threshold_exits_1(folder: str, second: str, tmp_path: Path) -> None:
    found = document("diff", folder, second, "--threshold", "60", code=1)
    assert [row["key"] for row in found["rows"]] == [LONGEST]
    assert found["only_a"] == ["broken"] and found["only_b"] == ["new"]
    slower = written(tmp_path / "slower", Row("b", "ok", latency_ms=3.0, latency_ci_ms=0.1))
    one = written(tmp_path / "b", ROWS[0])
    assert "slower" in text("diff", one, slower, "--threshold", "49", code=1)
    assert "slower" not in text("diff", one, slower, "--threshold", "51").split("1 keys")[0]
    assert run("diff", one, slower, "--threshold", "-1").exit_code == 2


def test_diff_as_json(folder: str, second: str) -> None:
    found = document("diff", folder, second)
    by_key = {row["key"]: row for row in found["rows"]}
    assert by_key["b"] == {
        "key": "b",
        "a_ms": 2.0,
        "a_ci_ms": 0.1,
        "b_ms": 3.0,
        "b_ci_ms": 0.1,
        "ratio": 1.5,
        "beyond_intervals": True,
    }
    assert by_key[LONGEST]["b_ms"] is None and by_key[LONGEST]["ratio"] is None
    assert found["worst"] == {"key": "b", "ratio": 1.5} and found["sums_ms"] == {"a": 3.0, "b": 4.005}
    assert found["provenance"]["reference_ms"] == {"a": 2.0, "b": 2.2}


def test_import_prints_where_it_went(folder: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "intel-x-cpu-onnxruntime-fp32-b1-192x384"
    assert text("import", folder).strip() == f"latency_tables/{name}"
    assert LatencyTable.read(tmp_path / "latency_tables" / name).rows == ROWS
    other = written(tmp_path / "other", ROWS[0])
    done = run("import", other)
    assert done.exit_code == 1 and isinstance(done.exception, InvalidTable)
    assert "--replace" in str(done.exception) and "\n" not in str(done.exception)
    assert text("import", other, "--replace", "--out", "latency_tables").strip().endswith(name)
    assert LatencyTable.read(tmp_path / "latency_tables" / name).rows == ROWS[:1]


@pytest.mark.parametrize("arguments", [["show"], ["diff"], ["import"]])
def test_a_missing_table_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    folders = [str(tmp_path / "nowhere")] * (2 if arguments == ["diff"] else 1)
    done = run(*arguments, *folders)
    assert isinstance(done.exception, InvalidTable) and "\n" not in str(done.exception)
