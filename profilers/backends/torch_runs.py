"""Runs of one model in PyTorch and the clocks they are timed with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_MS = 1.0  # a sample is at least this long: the clock of CUDA events steps by half a microsecond
WARM_UP_RUNS = 3  # before anything is captured: cuDNN tries its algorithms, libraries allocate


class HostRuns:
    """Runs on the CPU, timed by the host."""

    activation_bytes: int | None = None
    note: str | None = None

    def __init__(self, call: Callable[..., Any], inputs: Sequence[Any], clock: Callable[[], int]) -> None:
        self._call, self._inputs, self._clock = call, inputs, clock
        self.once()  # what torch refuses, it refuses here

    def once(self) -> Any:
        return self._call(*self._inputs)

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        stamps = [self._clock()]
        for _ in range(iterations):
            self._call(*self._inputs)
            stamps.append(self._clock())
        samples = np.diff(np.array(stamps, dtype=np.int64)) / 1e6
        return samples[samples > 0]  # a processor clock may step back

    def close(self) -> None:
        pass


class DeviceRuns:
    """Runs on a GPU, timed by CUDA events: replays of a CUDA graph, or eager where none could be captured.

    `activation_bytes` is the peak of an eager run over what lies there before it: weights and inputs are
    not in it, outputs are, and the scratch memory that libraries keep from run to run is not.
    """

    def __init__(self, torch: Any, call: Callable[..., Any], inputs: Sequence[Any]) -> None:
        self._torch = torch
        self._stream = torch.cuda.Stream()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_RUNS):
                call(*inputs)
            self.activation_bytes: int | None = _peak_bytes(torch, lambda: call(*inputs))
        self._outputs: Any = None
        self.note: str | None = None
        self._replay: Any = self._captured(call, inputs)
        self._group = 1
        self._group = max(1, math.ceil(SAMPLE_MS / max(float(np.median(self.time_ms(5))), 1e-3)))

    def _captured(self, call: Callable[..., Any], inputs: Sequence[Any]) -> Callable[[], Any]:
        def eager() -> None:
            self._outputs = call(*inputs)

        graph = self._torch.cuda.CUDAGraph()
        try:
            with self._torch.cuda.graph(graph, stream=self._stream):
                eager()
        except RuntimeError as error:
            self._torch.cuda.synchronize()
            self.note = f"no CUDA graph, times include launches by the host: {first_line(error)}"
            return eager
        replay: Callable[[], Any] = graph.replay
        return replay

    def once(self) -> Any:
        self._stream.wait_stream(self._torch.cuda.current_stream())  # where inputs were copied
        with self._torch.cuda.stream(self._stream):
            self._replay()
        self._stream.synchronize()
        return self._outputs

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        """Runs are timed in groups that last `SAMPLE_MS`; each run gets the mean of its group."""
        groups = math.ceil(iterations / self._group)
        events = [self._torch.cuda.Event(enable_timing=True) for _ in range(groups + 1)]
        with self._torch.cuda.stream(self._stream):
            events[0].record(self._stream)
            for event in events[1:]:
                for _ in range(self._group):
                    self._replay()
                event.record(self._stream)
        self._stream.synchronize()
        means = [start.elapsed_time(end) / self._group for start, end in pairwise(events)]
        return np.repeat(means, self._group)[:iterations]

    def close(self) -> None:
        with suppress(RuntimeError):  # a broken device
            self._stream.synchronize()
        self._replay = self._outputs = None
        self._torch.cuda.empty_cache()


def _peak_bytes(torch: Any, call: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def first_line(error: Exception) -> str:
    """What an exception says, shortened to a line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
