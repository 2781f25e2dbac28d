from __future__ import annotations

from types import SimpleNamespace

import pytest

from profilers.clock import clock_for


def test_one_thread_is_timed_by_its_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.get_clock_info", lambda name: SimpleNamespace(resolution=1e-9))
    assert clock_for(1)[0] == "thread_time"


def test_a_coarse_processor_clock_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.get_clock_info", lambda name: SimpleNamespace(resolution=0.015))
    assert clock_for(1)[0] == "perf_counter"


def test_several_threads_are_timed_by_the_monotonic_clock() -> None:
    assert clock_for(2)[0] == "perf_counter"
