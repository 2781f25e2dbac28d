from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.condition import Condition
from profilers.errors import InvalidTable, ProfilerError
from profilers.measurements import Engine, Loaded, Measurements

A, B, C = (0, 0), (3, 1), (4, 0)
SUBJECT = {"manifest": "x"}


def fill(found: Measurements) -> None:
    """One event of every kind."""
    found.begin()
    found.add_reference(0.5)
    found.add_condition(Condition(sm_clock_mhz=1500, throttle_reasons=("power cap",)))
    found.add_loaded(A, Loaded(0.1, 40, None, 7, "no graph"))
    found.add_burst(A, np.array([1.0, 1.25, 1.0 / 3]))
    found.add_burst(A, np.array([1.0, 1.25]), capped=True)
    found.add_throttled(A, 3)
    found.add_energy(A, 12.5)
    found.add_failed(B, "no kernel")
    found.add_lost(C, "illegal address")
    found.add_reference(0.25)


def state(found: Measurements) -> object:
    timings = {
        engine: (
            t.loaded,
            t.reason,
            t.failures,
            t.note,
            t.energy_mj,
            [b.tolist() for b in t.bursts],
            t.positions,
            t.throttled_runs,
        )
        for engine, t in found.timings.items()
    }
    return timings, found.reference_ms, found.conditions, found._sitting_starts


def test_replaying_gives_the_same_state(tmp_path: Path) -> None:
    live = Measurements(tmp_path / "m.jsonl", SUBJECT)
    fill(live)
    live.close()
    again = Measurements(tmp_path / "m.jsonl", SUBJECT)
    assert state(again) == state(live)
    assert again.centre(A) == live.centre(A) and again.centre(B) is None


def test_another_subject_is_refused(tmp_path: Path) -> None:
    Measurements(tmp_path / "m.jsonl", SUBJECT).close()
    with pytest.raises(InvalidTable, match=r"m\.jsonl is of another manifest.* \(manifest\): remove"):
        Measurements(tmp_path / "m.jsonl", {"manifest": "y"})


def test_what_changed_is_named(tmp_path: Path) -> None:
    def subject(mode: str) -> dict[str, object]:
        return {"manifest": "x", "backend": {"device": "Orin", "nvpmodel_mode": mode}}

    Measurements(tmp_path / "m.jsonl", subject("0000")).close()
    with pytest.raises(InvalidTable, match=r"\(nvpmodel_mode\): remove"):
        Measurements(tmp_path / "m.jsonl", subject("0002"))
    (tmp_path / "m.jsonl").write_text("{}x\n")
    with pytest.raises(InvalidTable, match="first line is damaged"):
        Measurements(tmp_path / "m.jsonl", subject("0002"))


@given(cut=st.integers(0, 10_000))
def test_a_torn_end_costs_at_most_what_was_being_written(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("torn") / "m.jsonl"
    whole = Measurements(path, SUBJECT)
    fill(whole)
    whole.close()
    content = path.read_bytes()
    path.write_bytes(content[: cut % len(content)])
    lines = path.read_bytes().count(b"\n")
    torn = Measurements(path, SUBJECT)
    assert len(path.read_text().splitlines()) == max(lines, 1)
    fill(torn)
    torn.close()
    assert state(Measurements(path, SUBJECT)) == state(torn)


def test_damage_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    found = Measurements(path, SUBJECT)
    fill(found)
    found.close()
    path.write_text(path.read_text().replace('"runs_ms"', '"runs_us"'))
    with pytest.raises(InvalidTable, match="line 6"):
        Measurements(path, SUBJECT)


def test_forgotten_engines_start_anew(tmp_path: Path) -> None:
    found = Measurements(tmp_path / "m.jsonl", SUBJECT)
    fill(found)
    found.forget([A])
    found.close()
    assert found.timing(A).rounds == 0
    assert Measurements(tmp_path / "m.jsonl", SUBJECT).timing(A).rounds == 0


def with_reference(*sittings: list[float], engine: Engine = A) -> Measurements:
    found = Measurements()
    for bursts in sittings:
        found.begin()
        for value in bursts:
            found.add_reference(value)
            found.add_burst(engine, np.full(3, 10.0))
    return found


def test_local_reference_is_the_median_of_the_nearest_bursts() -> None:
    found = with_reference([float(1 + i) for i in range(20)])
    assert found._local_ms([9, 0, 19]).tolist() == [10.5, 3.5, 18.0]


def test_an_outlier_of_the_reference_does_not_move_a_ratio() -> None:
    found = with_reference([1.0] * 9 + [50.0] + [1.0] * 9)
    assert found._local_ms([9]).tolist() == [1.0]


def test_bursts_of_another_sitting_are_no_neighbours() -> None:
    found = with_reference([1.0] * 6, [4.0] * 6)
    assert found._local_ms([5, 6]).tolist() == [1.0, 4.0]
    assert found.samples(A).tolist() == [10.0] * 18 + [2.5] * 18


def test_a_burst_is_worth_its_lower_quartile() -> None:
    found = Measurements()
    found.begin()
    found.add_reference(2.0)
    found.add_burst(A, np.array([1.0, 1.0, 1.0, 1.0, 90.0]))
    assert found.centre(A) == (0.5, np.inf)


def test_two_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    first = Measurements(path, SUBJECT)
    first.begin()
    written = path.read_bytes()
    path.write_bytes(written + b'{"sitting": "half a l')
    with pytest.raises(ProfilerError, match=r"another process is writing m\.jsonl: wait"):
        Measurements(path, SUBJECT)
    assert path.read_bytes().endswith(b"half a l")  # the other's line is not cut off
    path.write_bytes(written)
    first.close()
    Measurements(path, SUBJECT).close()


def test_a_refused_file_is_not_locked(tmp_path: Path) -> None:
    Measurements(tmp_path / "m.jsonl", SUBJECT).close()
    for _ in range(2):
        with pytest.raises(InvalidTable, match="another manifest"):
            Measurements(tmp_path / "m.jsonl", {"manifest": "y"})
    Measurements(tmp_path / "m.jsonl", SUBJECT).close()


def test_what_failed_is_tried_once_more_in_another_sitting() -> None:
    found = Measurements()
    found.begin()
    found.add_failed(A, "no kernel")
    found.add_lost(B, "illegal address")
    assert found.timing(A).reason == "no kernel"
    found.begin()
    assert found.timing(A).reason is None and found.timing(B).reason is None
    found.add_failed(A, "no kernel")
    found.begin()
    assert found.timing(A).reason == "no kernel"
    found.add_lost(B, "illegal address")
    found.begin()
    assert found.timing(B).reason == "the device was lost with it: illegal address"


def test_bursts_at_the_power_limit_count_and_are_noted() -> None:
    found = with_reference([1.0, 1.0])
    assert found.timing(A).note is None
    found.add_loaded(A, Loaded(0.1, note="no graph"))
    found.add_burst(A, np.full(3, 10.0), capped=True)
    assert found.timing(A).note == "no graph; the device was at its power limit in 1 of 3 bursts"
    assert found.centre(A) == (10.0, 0.0)


def test_a_condition_that_tells_nothing_is_not_kept() -> None:
    found = Measurements()
    found.add_condition(Condition())
    assert found.conditions == []
