from __future__ import annotations

import numpy as np
import pytest
from onnx_parts import conv

from profilers.backends.fake import FakeBackend, FakeSession
from profilers.condition import Condition
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


class Device(FakeBackend):
    """Fails for good after so many runs, whoever runs, and never again once `repaired`."""

    def __init__(self, runs: int) -> None:
        super().__init__()
        self.left = runs

    def run_ms(self, cost_ms: float) -> float:
        self.left -= 1
        if self.left < 0:
            raise MeasurementFailed("cudaErrorIllegalAddress")
        return super().run_ms(cost_ms)


@pytest.mark.parametrize("runs", range(30, 1200, 78))
def test_a_lost_device_fails_no_network(runs: int) -> None:
    found, broken = Measurements(), Device(runs)
    group = Group(Sitting(broken, found, SETTINGS), lambda engine: broken.load(conv()))
    with pytest.raises(MeasurementFailed, match=r"reference network no longer runs \(cudaErrorIllegal"):
        group.measure([A, B], never)
    assert sum(found.timing(engine).failures for engine in (A, B)) <= 1
    backend = FakeBackend()
    Group(Sitting(backend, found, SETTINGS), lambda engine: backend.load(conv())).measure([A, B], never)
    assert [(found.timing(e).reason, found.timing(e).rounds) for e in (A, B)] == [(None, 8)] * 2


class Poisonous(FakeSession):
    """Takes the device with it."""

    def time_ms(self, iterations: int) -> np.ndarray:
        assert isinstance(self._backend, Device)
        self._backend.left = 0
        return super().time_ms(iterations)


def test_a_network_that_takes_the_device_with_it_fails_in_the_end() -> None:
    found = Measurements()
    for sitting in range(3):
        backend = Device(1 << 20)

        def load(engine: Engine, backend: Device = backend) -> FakeSession:
            return Poisonous(backend, conv(), 0.1) if engine == A else backend.load(conv())

        group = Group(Sitting(backend, found, SETTINGS), load)
        if sitting < 2:
            with pytest.raises(MeasurementFailed, match="no longer runs"):
                group.measure([A, B], never)
        else:
            group.measure([A, B], never)
    assert found.timing(A).reason == "the device was lost with it: cudaErrorIllegalAddress"
    assert found.timing(B).rounds == 8 and found.timing(B).reason is None


@pytest.mark.parametrize(
    ("reason", "loads"),
    [
        ("CUDA failure 2: out of memory", 6),
        ("Error Code 2: OutOfMemory (Requested size was 4096 bytes.)", 6),
        ("cudaMalloc failed: cudaErrorMemoryAllocation", 6),
        ("TensorRT-RTX cannot run the engine: INSUFFICIENT_GPU_MEMORY", 6),
        ("Failed to allocate memory for requested buffer of size 64", 6),
        ("operator Relu: No importer for Relu.", 3),
    ],
)
def test_others_are_closed_only_for_their_memory(reason: str, loads: int) -> None:
    """The third network never loads."""
    backend, found = FakeBackend(), Measurements()
    loaded: list[Engine] = []

    def load(engine: Engine) -> FakeSession:
        loaded.append(engine)
        if engine == (2, 0):
            raise MeasurementFailed(reason)
        return backend.load(conv())

    Group(Sitting(backend, found, SETTINGS), load).measure([A, B, (2, 0)], never)
    assert len(loaded) == loads
    assert found.timing((2, 0)).reason == reason and found.timing(A).rounds == 8


def test_energy_that_cannot_be_measured_is_none() -> None:
    backend, found = FakeBackend(), Measurements()
    backend.throttling = lambda now: Condition(energy_mj=int(100 * now))

    class Breaking(FakeSession):
        def time_ms(self, iterations: int) -> np.ndarray:
            if iterations > 1000:
                raise MeasurementFailed("out of memory")
            return super().time_ms(iterations)

    def load(engine: Engine) -> FakeSession:
        return Breaking(backend, conv(), 0.1) if engine == A else backend.load(conv())

    group = Group(Sitting(backend, found, SETTINGS), load)
    group.measure([A, B], never)
    group.measure_energy([A, B])
    assert found.timing(A).energy_mj is None and found.timing(A).reason is None
    assert found.timing(B).energy_mj == pytest.approx(100 * (0.05 + 0.02 + 16e-5), rel=0.01)


@pytest.mark.parametrize("shift_ms", range(0, 70, 9))
def test_energy_is_read_over_many_steps_of_its_counter(shift_ms: int) -> None:
    """100 mJ a ms, told once in 70 ms."""
    backend, found = FakeBackend(), Measurements()
    backend.throttling = lambda now: Condition(energy_mj=(int(now) + shift_ms) // 70 * 7_000)
    group = Group(Sitting(backend, found, SETTINGS), lambda engine: backend.load(conv()))
    group.measure([A], never)
    group.measure_energy([A])
    assert found.timing(A).energy_mj == pytest.approx(100 * (0.05 + 0.02 + 16e-5), rel=0.04)


def test_progress_grows_to_one() -> None:
    group, _ = group_of(FakeBackend())
    told: list[float] = []
    group.measure([A, B], never, told.append)
    assert told == sorted(told) and told[-1] == 1.0
