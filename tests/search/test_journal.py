from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnas_hw.errors import RunError
from spnas_hw.search.journal import CSV_COLUMNS, Journal, front, read_journal, write_views
from tests.search.trials import trial

HEADER = {"format": 1, "seed": 0}


def journal(path: Path, count: int) -> Journal:
    this = Journal(path, HEADER)
    for index in range(count):
        this.append(trial(index, f"b_1{'1' * index}_0", 0.1 * index))
    return this


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    written = journal(tmp_path / "run" / "journal.jsonl", 3)
    header, trials = read_journal(written.path)
    assert header == HEADER and trials == written.trials
    assert Journal(written.path, HEADER).trials == written.trials


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(cut=st.integers(1, 10_000))
def test_a_crash_at_any_byte_loses_at_most_the_torn_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.unlink(missing_ok=True)
    whole = journal(path, 3)
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[:-cut] if cut < len(content) else b"")
    complete = max(0, path.read_bytes().count(b"\n") - 1)
    reopened = Journal(path, HEADER)
    assert reopened.trials == whole.trials[:complete]
    reopened.append(trial(9, "b_2_0", 0.9))
    assert read_journal(path)[1] == [*whole.trials[:complete], trial(9, "b_2_0", 0.9)]


@pytest.mark.parametrize("damage", ["not json", "[1]", '{"trial_id": 1}'])
def test_damage_inside_is_an_error_and_nothing_is_lost(tmp_path: Path, damage: str) -> None:
    path = journal(tmp_path / "journal.jsonl", 2).path
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, lines[2]]) + "\n")
    before = path.read_bytes()
    with pytest.raises(RunError, match="line 2 is damaged"):
        Journal(path, HEADER)
    assert path.read_bytes() == before


def test_another_search_is_refused(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal.jsonl", 1).path
    with pytest.raises(RunError, match="another seed"):
        Journal(path, {**HEADER, "seed": 1})


def test_no_journal(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        read_journal(tmp_path / "journal.jsonl")


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    this = journal(tmp_path / "journal.jsonl", 1)
    with pytest.raises(ValueError):
        this.append(trial(1, "b_1_0", float("nan")))
    assert len(read_journal(this.path)[1]) == 1


def test_views(tmp_path: Path) -> None:
    trials = [
        trial(0, "b_11_0", 0.2),
        trial(1, "b_12_0", None, parent_id=0, parent_code="b_11_0"),
        trial(2, "b_112_0", 0.3, parent_id=0, parent_code="b_11_0"),
        trial(3, "b_122_0", 0.1),
    ]
    write_views(trials, tmp_path)
    with open(tmp_path / "total_list_s.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["arch"] for row in rows] == ["b_11_0", "b_12_0", "b_112_0", "b_122_0"]
    assert rows[0]["pre_worker_id"] == "-1" and rows[2]["pre_worker_id"] == "0"
    assert rows[1]["mAP"] == "" and rows[1]["status"] == "failed"
    assert rows[2]["fps"] == f"{1000 / 12:.3f}" and rows[2]["t_elapsed"] == "2.500"
    assert not (tmp_path / "total_list_p.csv").exists()
    with open(tmp_path / "pareto_front.csv") as file:
        assert [row["arch"] for row in csv.DictReader(file)] == ["b_112_0", "b_11_0"]


def test_front_keeps_what_nothing_beats() -> None:
    small = trial(5, "b_1_0", 0.05, macs=10)
    assert small in front([trial(0, "b_11_0", 0.2), small])


def test_lines_are_json_objects(tmp_path: Path) -> None:
    path = journal(tmp_path / "journal.jsonl", 2).path
    assert [type(json.loads(line)) for line in path.read_text().splitlines()] == [dict] * 3
