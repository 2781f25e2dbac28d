from __future__ import annotations

import numpy as np
import pytest
from onnx_parts import conv

from profilers.backends.fake import FakeBackend, FakeSession
from profilers.errors import MeasurementFailed
from profilers.interleaving import Centres, Group, Settings, Sitting
from profilers.measurements import Engine, Measurements

SETTINGS = Settings(warmup_ms=1, min_rounds=4, max_rounds=8)
A, B = (0, 0), (1, 0)


def never(engine: Engine, centres: Centres) -> bool:
    return False


def group_of(backend: FakeBackend, settings: Settings = SETTINGS) -> tuple[Group, Measurements]:
    measurements = Measurements()
    return Group(Sitting(backend, measurements, settings), lambda engine: backend.load(conv())), measurements


def test_rounds_end_when_settled() -> None:
    group, found = group_of(FakeBackend())
    group.measure([A, B], lambda engine, centres: engine == A)
    assert [len(found.timing(engine).bursts) for engine in (A, B)] == [4, 8]


def test_rounds_end_when_the_time_is_used_up() -> None:
    group, found = group_of(
        FakeBackend(), Settings(warmup_ms=1, min_rounds=4, max_rounds=8, max_network_ms=1)
    )
    group.measure([A], never)
    assert len(found.timing(A).bursts) == 4


def test_measuring_goes_on_from_what_is_there() -> None:
    backend = FakeBackend()
    group, found = group_of(backend)
    group.measure([A], lambda engine, centres: True)
    assert found.timing(A).rounds == 4
    loaded = backend.loaded
    Group(Sitting(backend, found, SETTINGS), lambda engine: backend.load(conv())).measure([A, B], never)
    assert found.timing(A).rounds == found.timing(B).rounds == 8
    assert backend.loaded == loaded + 3
    Group(Sitting(backend, found, SETTINGS), lambda engine: backend.load(conv())).measure([A, B], never)
    assert backend.loaded == loaded + 4  # only another reference: nothing is left to measure


def test_network_that_breaks_half_way_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(4))

    class Breaking(FakeSession):
        def time_ms(self, iterations: int) -> np.ndarray:
            if next(calls, None) is None:
                raise MeasurementFailed("out of memory")
            return super().time_ms(iterations)

    backend = FakeBackend()
    measurements = Measurements()

    def load(engine: Engine) -> FakeSession:
        return Breaking(backend, conv(), 0.1) if engine == B else backend.load(conv())

    Group(Sitting(backend, measurements, SETTINGS), load).measure([A, B], never)
    assert measurements.timing(B).reason == "out of memory" and measurements.centre(B) is None
    assert measurements.timing(A).reason is None and len(measurements.timing(A).bursts) == 8


def test_progress_grows_to_one() -> None:
    group, _ = group_of(FakeBackend())
    told: list[float] = []
    group.measure([A, B], never, told.append)
    assert told == sorted(told) and told[-1] == 1.0
