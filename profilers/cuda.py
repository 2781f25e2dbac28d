"""One CUDA device through cuda-bindings 12 or 13: memory, one stream, events and graphs.

Every function of cuda-bindings answers with a tuple whose first item is the error.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from itertools import pairwise
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.gpu_facts import gpu_facts
from profilers.nvml import GpuDevice, bare_uuid, cuda_driver_version, devices


class CudaDevice:
    """A device and one stream on it; `close` frees all that was allocated. For the thread that opened it.

    Attributes:
        uuid: "GPU-...", also where it is that of a MIG instance.
        compute_capability: e.g. "8.6".
        cuda_driver: the newest CUDA the driver knows, e.g. "13.0".
        cuda_runtime: the CUDA of cuda-bindings.
        stream: handle of the stream, which does not wait for the default one.

    Args:
        uuid: "GPU-..." or "MIG-..."; None: CUDA's first device.

    Raises:
        BackendUnavailable: no cuda-bindings, no driver it can use, or no such device.
    """

    def __init__(self, uuid: str | None = None) -> None:
        self._cudart = _cudart()
        self._is_open = True
        self._allocated: set[int] = set()
        self._events: list[Any] = []
        number, properties = self._find(uuid)
        self.name = _name(properties)
        self.uuid = _uuid(properties)
        self.compute_capability = f"{properties.major}.{properties.minor}"
        try:
            self.cuda_driver = _version(self._call("cudaDriverGetVersion"))
            self.cuda_runtime = _version(self._call("cudaRuntimeGetVersion"))
            self._call("cudaSetDevice", number)
            self._stream = self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking)
        except MeasurementFailed as error:  # another process may have the device for itself
            raise BackendUnavailable(f"{self.name} cannot be used: {error}") from error
        self.stream = int(self._stream)

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free memory, events and stream, whatever became of the device; again: nothing."""
        if not self._is_open:
            return
        # After a failed kernel every call fails; there is nothing left to free then.
        self._cudart.cudaStreamSynchronize(self._stream)
        for event in self._events:
            self._cudart.cudaEventDestroy(event)
        for address in self._allocated:
            self._cudart.cudaFree(address)
        self._cudart.cudaStreamDestroy(self._stream)
        self._events, self._allocated, self._is_open = [], set(), False

    def facts(self) -> dict[str, str | int | float | None]:
        """What a table should know of the device; names no board."""
        known = gpu_facts(self.name, self.uuid, self.compute_capability)
        return known | {"cuda_driver": self.cuda_driver, "cuda_runtime": self.cuda_runtime}

    def malloc(self, size_bytes: int) -> int:
        """Address of new device memory; never 0, even for no bytes."""
        address = int(self._call("cudaMalloc", max(size_bytes, 1)))
        self._allocated.add(address)
        return address

    def free(self, address: int) -> None:
        """Free what `malloc` gave, once; after `close`, nothing."""
        if address in self._allocated:
            self._allocated.remove(address)
            self._cudart.cudaFree(address)  # fails on a broken device only, and then all else does

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total device memory."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def copy_in(self, array: NDArray[Any], address: int) -> None:
        """Host to device, finished on return."""
        array = np.ascontiguousarray(array)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(address, array.ctypes.data, array.nbytes, kind)

    def copy_out(self, address: int, array: NDArray[Any]) -> None:
        """Device to host, into a contiguous array, finished on return."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(array.ctypes.data, address, array.nbytes, kind)

    def synchronize(self) -> None:
        """Wait for all that is on the stream."""
        self._call("cudaStreamSynchronize", self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """A graph of what `enqueue` puts on the stream; none of it runs.

        Raises:
            MeasurementFailed: it cannot be captured, or `enqueue` says why; the stream is as it was before.
        """
        cudart, mode = self._cudart, self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            error, graph = cudart.cudaStreamEndCapture(self._stream)  # a stream can leave it in no other way
            if error == cudart.cudaError_t.cudaSuccess:
                cudart.cudaGraphDestroy(graph)
            cudart.cudaGetLastError()
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            executable = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            cudart.cudaGraphDestroy(graph)
        return Graph(cudart, executable, self._stream)

    def time_ms(self, launch: Callable[[], None], samples: int, launches: int) -> NDArray[np.float64]:
        """Back-to-back launches between CUDA events: `samples` means, ms a launch, of `launches` each."""
        while len(self._events) <= samples:
            self._events.append(self._call("cudaEventCreateWithFlags", self._cudart.cudaEventDefault))
        events = self._events[: samples + 1]
        self._call("cudaEventRecord", events[0], self._stream)
        for event in events[1:]:
            for _ in range(launches):
                launch()
            self._call("cudaEventRecord", event, self._stream)
        self.synchronize()
        elapsed = [self._call("cudaEventElapsedTime", first, last) for first, last in pairwise(events)]
        return np.array(elapsed, dtype=np.float64) / launches

    def _copy(self, target: int, source: int, size_bytes: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", target, source, size_bytes, kind, self._stream)
        self.synchronize()

    def _find(self, uuid: str | None) -> tuple[int, Any]:
        """CUDA's number and the properties of a device."""
        error, count = self._cudart.cudaGetDeviceCount()
        if error != self._cudart.cudaError_t.cudaSuccess or not count:
            raise BackendUnavailable(f"no CUDA device ({error.name}): {_driver_advice(self._cudart)}")
        present = [self._cudart.cudaGetDeviceProperties(number)[1] for number in range(count)]
        for number, properties in enumerate(present):
            if uuid is None or bare_uuid(uuid) == bare_uuid(_uuid(properties)):
                return number, properties
        names = ", ".join(_name(properties) for properties in present)
        raise BackendUnavailable(
            f"CUDA does not see the GPU that was asked for (it sees: {names}): look at CUDA_VISIBLE_DEVICES"
        )

    def _call(self, function: str, *arguments: Any) -> Any:
        """What a CUDA function answers, without the error."""
        if not self._is_open:
            raise MeasurementFailed("the device was closed: its backend is used inside 'with' only")
        error, *answer = getattr(self._cudart, function)(*arguments)
        if error != self._cudart.cudaError_t.cudaSuccess:
            self._cudart.cudaGetLastError()  # or somebody else's next call would find it
            raise MeasurementFailed(f"{function} failed: {error.name}")
        return answer[0] if len(answer) == 1 else tuple(answer)


class Graph:
    """Captured work, ready to be launched again and again on the stream it was captured from."""

    def __init__(self, cudart: Any, executable: Any, stream: Any) -> None:
        self._cudart, self._executable, self._stream = cudart, executable, stream
        self._success = cudart.cudaError_t.cudaSuccess

    def launch(self) -> None:
        (error,) = self._cudart.cudaGraphLaunch(self._executable, self._stream)
        if error != self._success:
            raise MeasurementFailed(f"cudaGraphLaunch failed: {error.name}")

    def close(self) -> None:
        """Free it; again: nothing."""
        if self._executable is not None:
            self._cudart.cudaGraphExecDestroy(self._executable)
        self._executable = None


def open_device(gpu: GpuDevice | None) -> CudaDevice:
    """The device of a GPU; None: CUDA's first. Raises BackendUnavailable."""
    if gpu is not None and gpu.uuid is None:
        raise BackendUnavailable(f"the driver tells no UUID of {gpu.name}: choose it by CUDA_VISIBLE_DEVICES")
    return CudaDevice(None if gpu is None else gpu.uuid)


def _cudart() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailable(f"cuda-bindings is missing: {install_bindings()}") from error
    return runtime


def install_bindings() -> str:
    """The command that installs the cuda-bindings for this driver."""
    version = cuda_driver_version()
    if version is None:
        return "pip install 'cuda-bindings==13.*' (driver 580 and newer) or 'cuda-bindings==12.*' (older)"
    # CUDA 13 has no libraries for Volta and older.
    old = any(float(device.compute_capability) < 7.5 for device in devices())
    return f"pip install 'cuda-bindings=={12 if old else min(int(float(version)), 13)}.*'"


def _driver_advice(cudart: Any) -> str:
    """What to do about a CUDA that does not start."""
    known, version = cuda_driver_version(), _version(cudart.cudaRuntimeGetVersion()[1])
    if known is None:
        return "install the NVIDIA driver; 'nvidia-smi' must list a GPU"
    if int(float(known)) < int(float(version)):
        return f"the driver knows CUDA {known}, cuda-bindings is for {version}: {install_bindings()}"
    return "'nvidia-smi' must list a GPU that CUDA_VISIBLE_DEVICES does not hide"


def _name(properties: Any) -> str:
    return bytes(properties.name).split(b"\0")[0].decode()


def _uuid(properties: Any) -> str:
    return f"GPU-{uuids.UUID(bytes=bytes(properties.uuid.bytes))}"


def _version(number: int) -> str:
    """13010 -> "13.1"."""
    return f"{number // 1000}.{number % 1000 // 10}"
