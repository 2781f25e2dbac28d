"""A double of `cuda.bindings.runtime`, with no more than the package uses."""

from __future__ import annotations

import ctypes
import enum
import uuid
from types import SimpleNamespace
from typing import Any

import numpy as np

from .gpu import Gpu, Stream, Work, cudaError_t

RESOLUTION_MS = 0.0005  # of events
SUCCESS = cudaError_t.cudaSuccess
ANSWERS = {
    "cudaGetDeviceCount": 1,
    "cudaGetDeviceProperties": 1,
    "cudaDriverGetVersion": 1,
    "cudaRuntimeGetVersion": 1,
    "cudaStreamCreateWithFlags": 1,
    "cudaMalloc": 1,
    "cudaMemGetInfo": 2,
    "cudaEventCreateWithFlags": 1,
    "cudaEventElapsedTime": 1,
    "cudaStreamEndCapture": 1,
    "cudaGraphInstantiate": 1,
}
"""How much a function answers besides the error, where that is anything."""


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class CudaRuntime:
    """What stands in `sys.modules` for the module."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1
    cudaEventDefault = 0

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu

    def __getattribute__(self, name: str) -> Any:
        failing = {} if name.startswith("_") else self._gpu.failing
        if name not in failing:
            return object.__getattribute__(self, name)
        return lambda *arguments: (failing[name], *[None] * ANSWERS.get(name, 0))

    def cudaGetDeviceCount(self) -> Any:
        return SUCCESS, len(self._gpu.devices)

    def cudaGetDeviceProperties(self, device: int) -> Any:
        name, (major, minor) = self._gpu.devices[device]
        identity = SimpleNamespace(bytes=uuid.UUID(self._gpu.uuid(device)[4:]).bytes)
        return SUCCESS, SimpleNamespace(name=name.encode(), uuid=identity, major=major, minor=minor)

    def cudaSetDevice(self, device: int) -> Any:
        self._gpu.current = device
        return (SUCCESS,)

    def cudaDriverGetVersion(self) -> Any:
        return SUCCESS, self._gpu.driver

    def cudaRuntimeGetVersion(self) -> Any:
        return SUCCESS, 13000

    def cudaGetLastError(self) -> Any:
        return (SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaStreamNonBlocking
        return SUCCESS, self._made(Stream())

    def cudaStreamDestroy(self, stream: Stream) -> Any:
        return self._gone(stream)

    def cudaStreamSynchronize(self, stream: Stream) -> Any:
        if stream.captured is not None:
            stream.capture_is_invalid = True
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        self._gpu.finish(stream)
        return (cudaError_t.cudaErrorIllegalAddress if self._gpu.broken else SUCCESS,)

    def cudaMalloc(self, size: int) -> Any:
        for stream in self._streams():
            if stream.captured is not None:
                stream.capture_is_invalid = True
                return cudaError_t.cudaErrorStreamCaptureUnsupported, None
        if size + sum(block.size for block in self._gpu.memory.values()) > self._gpu.total_bytes:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = np.full(size, 0xAB, np.uint8)  # nothing clears device memory
        self._gpu.memory[block.ctypes.data] = block
        return SUCCESS, block.ctypes.data

    def cudaFree(self, address: int) -> Any:
        for stream in self._streams():
            self._gpu.finish(stream)
        if self._gpu.memory.pop(address, None) is None:
            return (cudaError_t.cudaErrorInvalidValue,)
        return (SUCCESS,)

    def cudaMemGetInfo(self) -> Any:
        used = sum(block.size for block in self._gpu.memory.values())
        return SUCCESS, self._gpu.total_bytes - used, self._gpu.total_bytes

    def cudaMemcpyAsync(
        self, target: int, source: int, size: int, kind: cudaMemcpyKind, stream: Stream
    ) -> Any:
        gpu = self._gpu
        if kind == cudaMemcpyKind.cudaMemcpyHostToDevice:
            content = np.frombuffer(ctypes.string_at(source, size), np.uint8)

            def copy() -> None:
                gpu.bytes_at(target, size)[:] = content
        else:

            def copy() -> None:
                ctypes.memmove(target, gpu.bytes_at(source, size).ctypes.data, size)

        gpu.enqueue(stream, 0.001, copy)
        return (SUCCESS,)

    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaEventDefault
        return SUCCESS, self._made(SimpleNamespace(at_ms=None))

    def cudaEventDestroy(self, event: Any) -> Any:
        return self._gone(event)

    def cudaEventRecord(self, event: Any, stream: Stream) -> Any:
        gpu = self._gpu

        def record() -> None:
            event.at_ms = gpu.device_ms

        event.at_ms = None
        gpu.put(stream, Work(0.0, record))
        return (SUCCESS,)

    def cudaEventElapsedTime(self, start: Any, end: Any) -> Any:
        if start.at_ms is None or end.at_ms is None:
            return cudaError_t.cudaErrorInvalidResourceHandle, None
        return SUCCESS, round((end.at_ms - start.at_ms) / RESOLUTION_MS) * RESOLUTION_MS

    def cudaStreamBeginCapture(self, stream: Stream, mode: cudaStreamCaptureMode) -> Any:
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        stream.captured, stream.capture_is_invalid = [], False
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: Stream) -> Any:
        captured, stream.captured = stream.captured, None
        if captured is None:
            return cudaError_t.cudaErrorInvalidValue, None
        if stream.capture_is_invalid:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return SUCCESS, self._made(SimpleNamespace(works=captured))

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        assert flags == 0
        return SUCCESS, self._made(SimpleNamespace(works=list(graph.works)))

    def cudaGraphDestroy(self, graph: Any) -> Any:
        return self._gone(graph)

    def cudaGraphExecDestroy(self, executable: Any) -> Any:
        return self._gone(executable)

    def cudaGraphLaunch(self, executable: Any, stream: Stream) -> Any:
        if not any(item is executable for item in self._gpu.alive):
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        self._gpu.launches += 1
        self._gpu.host_ms += self._gpu.launch_ms
        for work in executable.works:
            self._gpu.put(stream, work)
        return (SUCCESS,)

    def _streams(self) -> list[Stream]:
        return [item for item in self._gpu.alive if isinstance(item, Stream)]

    def _made(self, item: Any) -> Any:
        self._gpu.alive.append(item)
        return item

    def _gone(self, item: Any) -> Any:
        kept = [other for other in self._gpu.alive if other is not item]
        known = len(kept) < len(self._gpu.alive)
        self._gpu.alive[:] = kept
        return (SUCCESS if known else cudaError_t.cudaErrorInvalidResourceHandle,)
