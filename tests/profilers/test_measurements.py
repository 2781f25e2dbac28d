from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.errors import InvalidTable, MeasurementFailed
from profilers.measurements import Measurement, Measurements
from profilers.stats import LatencyStats

STATS = LatencyStats.from_samples([1.0, 2.0])
GOOD = Measurement(("a", "b"), 1.5, 0.1, STATS, 7)
BAD = Measurement(("c",), reason="no kernel")


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    Measurements(path, {"manifest": "x"}).add([1.0, 2.0], [GOOD, BAD])
    again = Measurements(path, {"manifest": "x"})
    assert again.networks == {("a", "b"): GOOD, ("c",): BAD}
    again.add([6.0], [Measurement(("a", "b"), 2.5, 0.1, STATS)])
    last = Measurements(path, {"manifest": "x"})
    assert last.networks["a", "b"].latency == 2.5
    assert last.reference_ms == np.median([1.0, 2.0, 6.0])


def test_another_subject_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    Measurements(path, {"manifest": "x"})
    with pytest.raises(InvalidTable, match=r"m\.jsonl is of another manifest"):
        Measurements(path, {"manifest": "y"})


@given(cut=st.integers(0, 10_000))
def test_a_torn_end_costs_at_most_what_was_being_written(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("torn") / "m.jsonl"
    Measurements(path, {"manifest": "x"}).add([1.0], [GOOD, BAD])
    content = path.read_bytes()
    path.write_bytes(content[: cut % len(content)])
    whole = path.read_bytes().count(b"\n")
    found = Measurements(path, {"manifest": "x"})
    assert len(found.networks) == max(whole - 2, 0)
    found.add([1.0], [GOOD, BAD])
    assert Measurements(path, {"manifest": "x"}).networks == {("a", "b"): GOOD, ("c",): BAD}


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    Measurements(path, {}).add([1.0], [GOOD, BAD])
    path.write_text(path.read_text().replace('"reason": null', '"raisin": null'))
    with pytest.raises(InvalidTable, match="line 3"):
        Measurements(path, {})


def test_a_measurement_is_numbers_or_a_reason() -> None:
    for numbers in ({}, {"latency": 1.0}, {"latency": 1.0, "ci": 0.1, "stats": STATS, "reason": "x"}):
        with pytest.raises(MeasurementFailed):
            Measurement(("a",), **numbers)  # type: ignore[arg-type]
