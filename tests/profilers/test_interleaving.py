from __future__ import annotations

import numpy as np
import pytest
from onnx_parts import conv

from profilers.backends.fake import FakeBackend, FakeSession
from profilers.errors import MeasurementFailed
from profilers.interleaving import Group, Reference, Settings, burst_ms

SETTINGS = Settings(warmup_ms=1, min_rounds=4, max_rounds=8)


def never(name: str, centres: object) -> bool:
    return False


def test_burst_is_worth_its_lower_quartile() -> None:
    assert burst_ms(np.array([1.0, 1.0, 1.0, 1.0, 90.0])) == 1.0


def test_local_reference_is_the_median_of_the_nearest_bursts() -> None:
    reference = Reference(FakeBackend(), SETTINGS)
    reference.bursts_ms = [float(i) for i in range(20)]
    assert reference.local_ms([9, 0, 19]).tolist() == [9.5, 2.5, 17.0]


def test_an_outlier_of_the_reference_does_not_move_a_ratio() -> None:
    reference = Reference(FakeBackend(), SETTINGS)
    reference.bursts_ms = [1.0] * 9 + [50.0] + [1.0] * 9
    assert reference.local_ms([9]).tolist() == [1.0]


def test_rounds_end_when_settled() -> None:
    backend = FakeBackend()
    group: Group[str] = Group(Reference(backend, SETTINGS), SETTINGS)
    group.open("a", lambda: backend.load(conv()))
    group.open("b", lambda: backend.load(conv()))
    group.measure(lambda name, centres: name == "a")
    assert [len(group.timings[name].bursts) for name in "ab"] == [4, 8]


def test_rounds_end_when_the_time_is_used_up() -> None:
    settings = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, max_network_ms=1)
    backend = FakeBackend()
    group: Group[str] = Group(Reference(backend, settings), settings)
    group.open("a", lambda: backend.load(conv()))
    group.measure(never)
    assert len(group.timings["a"].bursts) == 4


def test_network_that_breaks_half_way_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    group: Group[str] = Group(Reference(backend, SETTINGS), SETTINGS)
    group.open("good", lambda: backend.load(conv()))
    group.open("bad", lambda: backend.load(conv()))
    bad = group._sessions["bad"]
    calls = iter(range(2))

    def break_at_the_third_burst(iterations: int) -> np.ndarray:
        if next(calls, None) is None:
            raise MeasurementFailed("out of memory")
        return FakeSession.time_ms(bad, iterations)  # type: ignore[arg-type]

    monkeypatch.setattr(bad, "time_ms", break_at_the_third_burst)
    group.measure(never)
    assert group.timings["bad"].reason == "out of memory"
    assert group.timings["good"].reason is None and len(group.timings["good"].bursts) == 8


def test_progress_grows_to_one() -> None:
    backend = FakeBackend()
    group: Group[str] = Group(Reference(backend, SETTINGS), SETTINGS)
    group.open("a", lambda: backend.load(conv()))
    told: list[float] = []
    group.measure(never, told.append)
    assert told == sorted(told) and told[-1] == 1.0
