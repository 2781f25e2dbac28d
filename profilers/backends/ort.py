"""ONNX Runtime: on the CPU, on an NVIDIA GPU with its own kernels, and with TensorRT inside."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from onnx import TensorProto

from profilers.backends import Facts, Model, bytes_from, model_from
from profilers.backends.ort_session import OrtSession, nodes_elsewhere, refusal
from profilers.clock import clock_for
from profilers.condition import Condition
from profilers.cuda_order import CudaGpu, cuda_device
from profilers.environment import cpu_name, package_version
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.gpu_facts import gpu_facts, tensorrt_version
from profilers.monitor import Monitor
from profilers.nvml import GpuDevice

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"


class OrtCpuBackend:
    """Runs models with the CPU kernels of ONNX Runtime.

    Args:
        threads: threads within one operator; operators run one after another.
        pin: keep each thread on a processor of its own, from `__enter__` to `__exit__`, where the system can.
            Threads that the caller starts in between inherit its processor.
    """

    name = "onnxruntime"

    def __init__(self, threads: int = 1, pin: bool = True) -> None:
        self.threads = threads
        self.pin = pin
        self._ort: ModuleType | None = None
        self._allowed: set[int] | None = None  # processors of the caller before it was pinned
        self._processors: list[int] = []  # the caller's, then those of the other threads; none: not pinned

    def __enter__(self) -> OrtCpuBackend:
        if self.threads < 1:
            raise BackendUnavailable(f"threads is {self.threads}: ask for at least 1")
        self._ort = _onnxruntime("onnxruntime")
        if self.pin and hasattr(os, "sched_setaffinity"):
            self._allowed = os.sched_getaffinity(0)
            # From the last: interrupts tend to go to the first.
            chosen = sorted(self._allowed, reverse=True)[: self.threads]
            self._processors = chosen if len(chosen) == self.threads else []
            os.sched_setaffinity(0, self._processors[:1] or self._allowed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ort = None
        if self._allowed is not None:
            os.sched_setaffinity(0, self._allowed)
        self._allowed, self._processors = None, []

    def load(self, model: Model) -> OrtSession:
        """A session with every option that moves the time set explicitly."""
        ort = _entered(self._ort, self.name)
        options = _options(ort)
        options.intra_op_num_threads = self.threads
        if self._processors[1:]:  # ONNX Runtime counts processors from 1, and leaves the caller alone
            affinities = ";".join(str(processor + 1) for processor in self._processors[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", affinities)
        with refusal("load"):
            session = ort.InferenceSession(bytes_from(model), options, providers=[CPU], enable_fallback=0)
            return OrtSession(ort, session, model, clock_for(self.threads)[1])

    def describe(self) -> Facts:
        return {
            "device": cpu_name(),
            "runtime": self.name,
            "runtime_version": str(_entered(self._ort, self.name).__version__),
            "threads": self.threads,
            "pinned": "yes" if self._processors else "no",
            "execution_provider": CPU,
            "graph_optimization": "all",
            "clock": clock_for(self.threads)[0],
        }

    def condition(self) -> Condition:
        return Condition()


class OrtCudaBackend:
    """Runs models with the CUDA kernels of ONNX Runtime, as a CUDA graph where all of them are on the GPU.

    Times are those of the host, from handing over a run to the end of its outputs.

    Args:
        gpu: None: the first CUDA device.
    """

    name = "onnxruntime-cuda"
    provider = CUDA

    def __init__(self, gpu: GpuDevice | None = None) -> None:
        self.gpu = gpu
        self._ort: ModuleType | None = None
        self._awake: tuple[CudaGpu, Monitor] | None = None

    def __enter__(self) -> OrtCudaBackend:
        ort = _onnxruntime("onnxruntime-gpu")
        present = ort.get_available_providers()
        if self.provider not in present:
            raise BackendUnavailable(
                f"this ONNX Runtime has no {self.provider} (it has {', '.join(present)}): "
                "pip uninstall onnxruntime, then pip install onnxruntime-gpu"
            )
        if hasattr(ort, "preload_dlls"):  # finds the CUDA libraries that pip installed; prints what it lacks
            with contextlib.redirect_stdout(io.StringIO()):
                ort.preload_dlls()
        device = cuda_device(self.gpu)
        self._awake = device, Monitor(device.uuid)
        self._ort = ort
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._awake is not None:
            self._awake[1].close()
        self._ort = self._awake = None

    def load(self, model: Model) -> OrtSession:
        """Raises BackendUnavailable: ONNX Runtime would not use the GPU; MeasurementFailed: its reason."""
        try:
            return self._load(model, cuda_graph=True)
        except MeasurementFailed as error:
            session = self._load(model, cuda_graph=False)  # fails again where the graph was not the reason
            session.note = "; ".join(filter(None, [f"no CUDA graph: {error}", session.note]))
            return session

    def providers(self, model: Model, cuda_graph: bool) -> list[tuple[str, dict[str, str]]]:
        """The execution providers, the wanted one first, with their options."""
        return [(CUDA, self._cuda_options(cuda_graph))]

    def describe(self) -> Facts:
        ort, device, _ = self._entered()
        cudnn = (package_version(f"nvidia-cudnn-cu{major}") for major in (13, 12))
        return gpu_facts(device.name, device.uuid, device.compute_capability) | {
            "cuda_runtime": str(getattr(ort, "cuda_version", "")) or None,
            "cudnn": next(filter(None, cudnn), None),
            "runtime": self.name,
            "runtime_version": str(ort.__version__),
            "threads": None,
            "execution_provider": self.provider,
            "graph_optimization": "all",
            "clock": "perf_counter",
            "tf32": "off" if self.provider == CUDA else "as TensorRT chooses",
        }

    def condition(self) -> Condition:
        _, _, monitor = self._entered()
        return monitor.condition()

    def _load(self, model: Model, cuda_graph: bool) -> OrtSession:
        ort, device, _ = self._entered()
        options = _options(ort)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers = self.providers(model, cuda_graph)
        with refusal("load"):
            session = ort.InferenceSession(bytes_from(model), options, providers=providers, enable_fallback=0)
        if session.get_providers()[0] != self.provider:
            raise BackendUnavailable(
                f"{self.provider} does not start here (ONNX Runtime would use {session.get_providers()[0]}): "
                "install the CUDA, cuDNN and TensorRT that this version of onnxruntime-gpu wants"
            )
        with refusal("load"):
            loaded = OrtSession(ort, session, model, clock_for(threads=0)[1], cuda_ordinal=device.number)
        loaded.note = nodes_elsewhere(session, self.provider)
        loaded.time_ms(3)  # a CUDA graph is captured in the first runs, or refused
        return loaded

    def _cuda_options(self, cuda_graph: bool) -> dict[str, str]:
        _, device, _ = self._entered()
        return {
            "device_id": str(device.number),
            "use_tf32": "0",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
            "do_copy_in_default_stream": "1",
            "arena_extend_strategy": "kSameAsRequested",
            "enable_cuda_graph": str(int(cuda_graph)),
        }

    def _entered(self) -> tuple[Any, CudaGpu, Monitor]:
        if self._awake is None:
            raise BackendUnavailable(f"the {self.name} backend is used inside 'with' only")
        return self._ort, *self._awake


class OrtTensorrtBackend(OrtCudaBackend):
    """Runs models with TensorRT inside ONNX Runtime; what TensorRT lacks runs on CUDA, as `note` says.

    Args:
        cache: folder for engines and timing caches; None: engines are built anew at every load.
    """

    name = "onnxruntime-tensorrt"
    provider = TENSORRT

    def __init__(self, gpu: GpuDevice | None = None, cache: Path | None = None) -> None:
        super().__init__(gpu)
        self.cache = cache

    def describe(self) -> Facts:
        return super().describe() | {"tensorrt": tensorrt_version()}

    def providers(self, model: Model, cuda_graph: bool) -> list[tuple[str, dict[str, str]]]:
        _, device, _ = self._entered()
        graph = model_from(model).graph
        tensors = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)]
        types = {*tensors, *(tensor.data_type for tensor in graph.initializer)}
        options = {
            "device_id": str(device.number),
            "trt_fp16_enable": str(int(TensorProto.FLOAT16 in types)),
            "trt_cuda_graph_enable": str(int(cuda_graph)),
        }
        if self.cache is not None:
            self.cache.mkdir(parents=True, exist_ok=True)
            # ONNX Runtime's own key knows neither weights nor shapes, only names, which all networks share.
            options["trt_engine_cache_prefix"] = hashlib.sha256(bytes_from(model)).hexdigest()[:16]
            for kind in ("engine", "timing"):
                options |= {f"trt_{kind}_cache_enable": "1", f"trt_{kind}_cache_path": str(self.cache)}
        return [(TENSORRT, options), (CUDA, self._cuda_options(cuda_graph=False))]


def _onnxruntime(package: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(f"ONNX Runtime is missing: pip install {package}") from error
    return onnxruntime


def _entered(ort: ModuleType | None, name: str) -> Any:
    if ort is None:
        raise BackendUnavailable(f"the {name} backend is used inside 'with' only")
    return ort


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = True
    options.enable_cpu_mem_arena = True
    options.log_severity_level = 4  # failures are raised, the log would only repeat them
    return options
