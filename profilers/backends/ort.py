"""ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.backends import Array, Facts, Model, bytes_from, model_from
from profilers.condition import Condition
from profilers.environment import cpu_name
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.network import random_inputs, signature, weights_bytes


class OrtCpuBackend:
    """Runs models with the CPU kernels of ONNX Runtime.

    Args:
        threads: threads within one operator; operators run one after another.
    """

    name = "onnxruntime"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        self._ort: ModuleType | None = None

    def __enter__(self) -> OrtCpuBackend:
        if self.threads < 1:
            raise BackendUnavailable(f"threads is {self.threads}: ask for at least 1")
        try:
            import onnxruntime
        except ImportError as error:
            raise BackendUnavailable("ONNX Runtime is missing: pip install onnxruntime") from error
        self._ort = onnxruntime
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ort = None

    def load(self, model: Model) -> OrtSession:
        """A session with every option that moves the time set explicitly."""
        ort = self._entered()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.enable_mem_pattern = True
        options.enable_cpu_mem_arena = True
        options.log_severity_level = 4  # failures are raised, the log would only repeat them
        try:
            session = ort.InferenceSession(bytes_from(model), options, providers=["CPUExecutionProvider"])
            return OrtSession(ort, session, model, clock_for(self.threads)[1])
        except Exception as error:
            raise MeasurementFailed(f"ONNX Runtime does not load it: {_first_line(error)}") from error

    def describe(self) -> Facts:
        return {
            "device": cpu_name(),
            "runtime": "onnxruntime",
            "runtime_version": str(self._entered().__version__),
            "threads": self.threads,
            "execution_provider": "CPUExecutionProvider",
            "graph_optimization": "all",
            "clock": clock_for(self.threads)[0],
        }

    def condition(self) -> Condition:
        return Condition()

    def _entered(self) -> Any:
        if self._ort is None:
            raise BackendUnavailable("the onnxruntime backend is used inside 'with' only")
        return self._ort


class OrtSession:
    """One model in ONNX Runtime, its inputs and outputs bound to fixed memory."""

    activation_bytes: int | None = None  # the CPU arena is shared by all sessions; no figure for one of them
    note: str | None = None

    def __init__(self, ort: Any, session: Any, model: Model, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._session = session
        self._binding = session.io_binding()
        graph = model_from(model)
        self.weights_bytes: int | None = weights_bytes(graph)
        self._signature = signature(graph)
        for name, array in random_inputs(self._signature.inputs, np.random.default_rng(0)).items():
            self._binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for tensor in self._signature.outputs:
            value = ort.OrtValue.ortvalue_from_shape_and_type(tensor.shape, tensor.dtype)
            self._binding.bind_ortvalue_output(tensor.name, value)

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        run, binding, clock = self._open().run_with_iobinding, self._binding, self._clock
        stamps = [clock()]
        try:
            for _ in range(iterations):
                run(binding)
                stamps.append(clock())
        except Exception as error:
            raise MeasurementFailed(f"ONNX Runtime does not run it: {_first_line(error)}") from error
        samples = np.diff(np.array(stamps, dtype=np.int64)) / 1e6
        # On a virtual machine a processor clock may step back when the thread moves to another core.
        return samples[samples > 0]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        wanted = [tensor.name for tensor in self._signature.inputs]
        if set(wanted) != set(inputs):
            raise MeasurementFailed(f"the model takes inputs {wanted}, not {list(inputs)}")
        names = [tensor.name for tensor in self._signature.outputs]
        try:
            return dict(zip(names, self._open().run(names, dict(inputs)), strict=True))
        except Exception as error:
            raise MeasurementFailed(f"ONNX Runtime does not run it: {_first_line(error)}") from error

    def close(self) -> None:
        self._session = self._binding = None

    def _open(self) -> Any:
        if self._session is None:
            raise MeasurementFailed("this session was closed")
        return self._session


def clock_for(threads: int) -> tuple[str, Callable[[], int]]:
    """Name of a clock and the clock, in ns.

    One thread computes in the calling thread, so its processor time is the latency on a processor of its
    own: the monotonic clock, less the time in which the system let another process run. On two busy
    processors slopes by the monotonic clock differed by up to 100 % between two runs, as long networks were
    interrupted in every run and the reference was not; by processor time, in units of the reference, by at
    most 6 %, from a quiet machine as well. Several threads wait for each other, which is latency: there the
    monotonic clock counts.
    """
    # Where thread time is as coarse as a timer tick it is of no use.
    if threads == 1 and time.get_clock_info("thread_time").resolution < 1e-6:
        return "thread_time", time.thread_time_ns
    return "perf_counter", time.perf_counter_ns


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
