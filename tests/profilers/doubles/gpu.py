"""A machine with GPUs that do not exist: device memory is host memory, time is virtual.

Work on a stream waits until somebody synchronises, so that code which forgets to reads stale memory. Host and
device have a clock each: a launch costs the host `launch_ms`, and the device starts no work before it was
launched.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorDevicesUnavailable = 46
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class IllegalAddress(Exception):
    """Work reads or writes memory that is not allocated."""


@dataclass
class Work:
    """Something for the device to do."""

    cost_ms: float
    action: Callable[[], None]
    launched_ms: float = 0.0


class Stream:
    def __init__(self) -> None:
        self.waiting: list[Work] = []
        self.captured: list[Work] | None = None  # None: not capturing
        self.capture_is_invalid = False

    def __int__(self) -> int:
        return id(self)


@dataclass
class Gpu:
    """The machine: its devices, what lies on them, and the clocks.

    `failing` maps names of functions to the error they answer with.
    """

    devices: tuple[tuple[str, tuple[int, int]], ...] = (("NVIDIA Double 86", (8, 6)),)
    driver: int = 13000
    launch_ms: float = 0.002
    total_bytes: int = 1 << 30
    failing: dict[str, cudaError_t] = field(default_factory=dict)
    current: int | None = None
    host_ms: float = 0.0
    device_ms: float = 0.0
    broken: bool = False
    launches: int = 0
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)  # streams, events, graphs

    def uuid(self, number: int) -> str:
        return f"GPU-{uuid.UUID(int=number + 1)}"

    def seconds(self) -> float:
        """Stands for `time.perf_counter`."""
        return self.host_ms / 1e3

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        """Device memory as bytes."""
        block = self.memory.get(address)
        if block is None or block.size < size:
            raise IllegalAddress
        return block[:size]

    def stream(self, handle: int) -> Stream:
        return next(item for item in self.alive if isinstance(item, Stream) and int(item) == handle)

    def enqueue(self, stream: Stream, cost_ms: float, action: Callable[[], None]) -> None:
        self.host_ms += self.launch_ms
        self.put(stream, Work(cost_ms, action))

    def put(self, stream: Stream, work: Work) -> None:
        if stream.captured is not None:
            stream.captured.append(work)
        else:
            stream.waiting.append(Work(work.cost_ms, work.action, self.host_ms))

    def finish(self, stream: Stream) -> None:
        """Do all that waits."""
        waiting, stream.waiting = stream.waiting, []
        for work in waiting:
            self.device_ms = max(self.device_ms, work.launched_ms)
            try:
                work.action()
            except IllegalAddress:
                self.broken = True
            self.device_ms += work.cost_ms
        self.host_ms = max(self.host_ms, self.device_ms)
