from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spnas_hw.errors import RunError
from spnas_hw.search.remeasured import COLUMNS, NAME, Remeasured, read_remeasured, write_remeasured

numbers = st.floats(0, 1e4, allow_nan=False)
codes = st.from_regex(r"b_[12]{1,4}-[12]{1,3}", fullmatch=True)
statuses = st.sampled_from(("ok", "over budget", "disturbed"))
measured = st.builds(Remeasured, codes, st.floats(0, 1), numbers, numbers, numbers, numbers, statuses)
failed = st.builds(Remeasured, codes, st.floats(0, 1), numbers, *[st.none()] * 3, st.just("failed"))
rows = measured | failed


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(found=st.lists(rows, unique_by=lambda row: row.arch))
def test_what_is_written_is_read(tmp_path: Path, found: list[Remeasured]) -> None:
    write_remeasured(tmp_path, found)
    assert read_remeasured(tmp_path) == {row.arch: row for row in found}
    with open(tmp_path / NAME, newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_nothing_was_measured(tmp_path: Path) -> None:
    assert read_remeasured(tmp_path) == {}


@pytest.mark.parametrize(
    "line",
    ["b_1,0.1,2,3,4,1", "b_1,0.1,2,3,4,1,fine", "b_1,high,2,3,4,1,ok", "b_1,,2,3,4,1,ok", "b_1,0.1,2,,,,ok"],
)
def test_a_damaged_list_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / NAME).write_text(",".join(COLUMNS) + f"\n{line}\n")
    with pytest.raises(RunError, match="is damaged"):
        read_remeasured(tmp_path)
