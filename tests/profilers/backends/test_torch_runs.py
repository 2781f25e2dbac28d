"""The timing of runs on a GPU, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from profilers.backends.torch_runs import SAMPLE_MS, WARM_UP_RUNS, DeviceRuns


class FakeCuda(SimpleNamespace):
    """`torch.cuda` in virtual time: a run takes `cost_ms`, more when launched one by one."""

    def __init__(self, cost_ms: float, capturable: bool = True) -> None:
        super().__init__(now_ms=0.0, cost_ms=cost_ms, capturable=capturable, runs=0, capturing=False)
        self.emptied = 0
        self.synchronize = lambda: None
        self.reset_peak_memory_stats = lambda: None
        self.memory_allocated = lambda: 1000
        self.max_memory_allocated = lambda: 1000 + 64
        self.Stream = lambda: SimpleNamespace(wait_stream=lambda other: None, synchronize=lambda: None)
        self.current_stream = self.Stream

    def call(self, x: int) -> tuple[int, ...]:
        self.runs += 1
        if not self.capturing:
            self.now_ms += 2 * self.cost_ms
        return (x + 1,)

    @contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        yield

    @contextmanager
    def graph(self, graph: object, stream: object) -> Iterator[None]:
        self.capturing = True
        yield
        self.capturing = False
        if not self.capturable:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    def CUDAGraph(self) -> SimpleNamespace:
        def replay() -> None:
            self.now_ms += self.cost_ms

        return SimpleNamespace(replay=replay)

    def Event(self, enable_timing: bool) -> SimpleNamespace:
        assert enable_timing
        event = SimpleNamespace(at_ms=None)
        event.record = lambda stream: setattr(event, "at_ms", self.now_ms)
        event.elapsed_time = lambda other: other.at_ms - event.at_ms
        return event

    def empty_cache(self) -> None:
        self.emptied += 1


def device_runs(cuda: FakeCuda) -> DeviceRuns:
    return DeviceRuns(SimpleNamespace(cuda=cuda), cuda.call, [41])


class TestDeviceRuns:
    @pytest.mark.parametrize("cost_ms", [0.25 * SAMPLE_MS, 0.7 * SAMPLE_MS, 30 * SAMPLE_MS])
    def test_samples_are_of_single_runs_however_many_fill_one(self, cost_ms: float) -> None:
        cuda = FakeCuda(cost_ms)
        runs = device_runs(cuda)
        before = cuda.now_ms
        assert runs.time_ms(6) == pytest.approx([cost_ms] * 6)
        groups = math.ceil(6 / runs._group)
        assert (cuda.now_ms - before) / groups >= SAMPLE_MS
        assert runs._group == 1 or runs._group * cost_ms < 2 * SAMPLE_MS

    def test_a_sample_is_long_beside_the_step_of_the_clock(self) -> None:
        cuda = FakeCuda(cost_ms=0.1)
        runs = device_runs(cuda)
        before = cuda.now_ms
        runs.time_ms(1)
        assert 0.0005 / (cuda.now_ms - before) < 0.001

    def test_long_runs_are_not_repeated(self) -> None:
        cuda = FakeCuda(cost_ms=5.0)
        runs = device_runs(cuda)
        before = cuda.now_ms
        runs.time_ms(3)
        assert cuda.now_ms - before == pytest.approx(15.0)

    def test_replays_the_graph_after_warming_up(self) -> None:
        cuda = FakeCuda(cost_ms=1.0)
        runs = device_runs(cuda)
        called = cuda.runs
        assert called > WARM_UP_RUNS
        runs.time_ms(5)
        assert runs.once() == (42,)
        assert cuda.runs == called
        assert runs.note is None

    def test_what_cannot_be_captured_is_launched_and_says_so(self) -> None:
        cuda = FakeCuda(cost_ms=1.0, capturable=False)
        runs = device_runs(cuda)
        assert runs.note is not None and "no CUDA graph" in runs.note and "\n" not in runs.note
        assert "not permitted" in runs.note
        assert runs.time_ms(4) == pytest.approx([2.0] * 4)
        assert runs.once() == (42,)

    def test_activations_are_what_a_run_adds(self) -> None:
        assert device_runs(FakeCuda(cost_ms=1.0)).activation_bytes == 64

    def test_closing_does_not_fail_on_a_broken_device(self) -> None:
        def broken() -> None:
            raise RuntimeError("an illegal memory access was encountered")

        cuda = FakeCuda(cost_ms=1.0)
        runs = device_runs(cuda)
        runs._stream.synchronize = broken
        runs.close()
        assert cuda.emptied == 1

    def test_closing_gives_the_memory_back(self) -> None:
        cuda = FakeCuda(cost_ms=1.0)
        device_runs(cuda).close()
        assert cuda.emptied == 1
