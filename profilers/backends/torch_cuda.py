"""PyTorch on an NVIDIA GPU, for machines without TensorRT: node by node, replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.backends import Array, Facts, Model, model_from
from profilers.backends.torch_runs import DeviceRuns, HostRuns, first_line
from profilers.clock import clock_for
from profilers.condition import Condition
from profilers.environment import cpu_name
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.gpu_facts import gpu_facts
from profilers.monitor import Monitor
from profilers.network import random_inputs, weights_bytes
from profilers.nvml import GpuDevice, bare_uuid
from profilers.torch_graph import TorchGraph

INSTALL = "pip install torch, from the index that https://pytorch.org names for this driver"


class TorchCudaBackend:
    """Runs models with PyTorch, in the types of the graph; FP32 is FP32, without TF32.

    Args:
        gpu: None: the first CUDA device.
        channels_last: features and the weights of convolutions as NHWC, which tensor cores want.
        cudnn_benchmark: cuDNN tries its algorithms on every shape and keeps the fastest.
        compile: compile every network with `torch.compile`, which takes seconds to minutes each.
        device: cuda; or cpu, to check results where there is no GPU.
    """

    name = "torch-cuda"

    def __init__(
        self,
        gpu: GpuDevice | None = None,
        channels_last: bool = True,
        cudnn_benchmark: bool = True,
        compile: bool = False,
        device: str = "cuda",
    ) -> None:
        self.gpu = gpu
        self.channels_last = channels_last
        self.cudnn_benchmark = cudnn_benchmark
        self.compile = compile
        self.device = device
        self._torch: Any = None
        self._place: Any = None  # torch.device
        self._monitor: Monitor | None = None
        self._undo = ExitStack()

    def __enter__(self) -> TorchCudaBackend:
        if self.device not in ("cuda", "cpu"):
            raise BackendUnavailable(f"device is {self.device!r}: choose cuda or cpu")
        torch = _pytorch()
        with ExitStack() as undo:
            self._place = torch.device("cpu")
            if self.device == "cuda":
                self._place = torch.device("cuda", _ordinal(torch, self.gpu))
                undo.enter_context(torch.cuda.device(self._place))
                self._monitor = undo.enter_context(Monitor(_uuid(torch, self._place)))
            undo.enter_context(torch.inference_mode())
            _set(undo, torch.backends.cudnn, "benchmark", self.cudnn_benchmark)
            _set(undo, torch.backends.cudnn, "allow_tf32", False)
            _set(undo, torch.backends.cuda.matmul, "allow_tf32", False)
            self._undo = undo.pop_all()
        self._torch = torch
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._torch = self._monitor = None
        self._undo.close()

    def load(self, model: Model) -> TorchSession:
        torch, proto = self._entered(), model_from(model)
        with _refusal("load"):
            graph = TorchGraph(torch, proto, self._place, self.channels_last)
            drawn = random_inputs(graph.inputs, np.random.default_rng(0))
            inputs = [graph.tensor(spec, drawn[spec.name]) for spec in graph.inputs]
            call = torch.compile(graph, dynamic=False) if self.compile else graph
            if self._place.type == "cuda":
                return TorchSession(graph, inputs, DeviceRuns(torch, call, inputs), weights_bytes(proto))
            runs = HostRuns(call, inputs, clock_for(torch.get_num_threads())[1])
            return TorchSession(graph, inputs, runs, weights_bytes(proto))

    def describe(self) -> Facts:
        torch = self._entered()
        on_gpu = self._place.type == "cuda"
        threads = torch.get_num_threads()
        return self._device_facts(torch) | {
            "runtime": self.name,
            "runtime_version": str(torch.__version__),
            "threads": None if on_gpu else threads,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version() if on_gpu else None,
            "channels_last": _yes(self.channels_last),
            "cudnn_benchmark": _yes(self.cudnn_benchmark),
            "compile": _yes(self.compile),
            "tf32": "off",
            "clock": "cuda events" if on_gpu else clock_for(threads)[0],
        }

    def _device_facts(self, torch: Any) -> Facts:
        if self._place.type != "cuda":
            return {"device": cpu_name()}
        major, minor = torch.cuda.get_device_capability(self._place)
        name = torch.cuda.get_device_name(self._place)
        return gpu_facts(name, _uuid(torch, self._place), f"{major}.{minor}")

    def condition(self) -> Condition:
        self._entered()
        return Condition() if self._monitor is None else self._monitor.condition()

    def _entered(self) -> Any:
        if self._torch is None:
            raise BackendUnavailable("the torch-cuda backend is used inside 'with' only")
        return self._torch


class TorchSession:
    """One model in PyTorch, its inputs in fixed memory."""

    def __init__(
        self, graph: TorchGraph, inputs: Sequence[Any], runs: DeviceRuns | HostRuns, weights_bytes: int
    ) -> None:
        self.weights_bytes: int | None = weights_bytes
        self.activation_bytes = runs.activation_bytes
        self.note = runs.note
        self._loaded: tuple[TorchGraph, Sequence[Any], DeviceRuns | HostRuns] | None = (graph, inputs, runs)

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        _, _, runs = self._open()
        with _refusal("run"):
            return runs.time_ms(iterations)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        graph, fixed, runs = self._open()
        wanted = [spec.name for spec in graph.inputs]
        if set(wanted) != set(inputs):
            raise MeasurementFailed(f"the model takes inputs {wanted}, not {list(inputs)}")
        with _refusal("run"):
            for spec, tensor in zip(graph.inputs, fixed, strict=True):
                tensor.copy_(graph.tensor(spec, inputs[spec.name]))
            outputs = zip(graph.outputs, runs.once(), strict=True)
            return {spec.name: graph.array(spec, tensor) for spec, tensor in outputs}

    def close(self) -> None:
        if self._loaded is not None:
            _, _, runs = self._loaded
            self._loaded = None
            runs.close()

    def _open(self) -> tuple[TorchGraph, Sequence[Any], DeviceRuns | HostRuns]:
        if self._loaded is None:
            raise MeasurementFailed("this session was closed")
        return self._loaded


def _pytorch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(f"PyTorch is missing: {INSTALL}") from error
    return torch


def _ordinal(torch: Any, gpu: GpuDevice | None) -> int:
    """The number of a GPU among those that torch sees.

    Raises:
        BackendUnavailable: no CUDA, not that GPU, or no kernels for it in this build of torch.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailable(f"PyTorch {torch.__version__} sees no CUDA device: {INSTALL}")
    number = 0
    if gpu is not None and gpu.uuid is not None:
        seen = [bare_uuid(_uuid(torch, i)) for i in range(torch.cuda.device_count())]
        if bare_uuid(gpu.uuid) not in seen:
            raise BackendUnavailable(f"PyTorch does not see {gpu.name}: look at CUDA_VISIBLE_DEVICES")
        number = seen.index(bare_uuid(gpu.uuid))
    elif gpu is not None and torch.cuda.device_count() > 1:
        raise BackendUnavailable(f"the driver tells no UUID of {gpu.name}: choose it by CUDA_VISIBLE_DEVICES")
    try:
        torch.zeros(1, device=torch.device("cuda", number)).add_(1)
    except RuntimeError as error:
        name, reason = torch.cuda.get_device_name(number), first_line(error)
        raise BackendUnavailable(
            f"PyTorch {torch.__version__} does not run on {name} ({reason}): {INSTALL}"
        ) from error
    return number


def _uuid(torch: Any, device: Any) -> str:
    """ "GPU-...", also where it is that of a MIG instance."""
    return f"GPU-{str(torch.cuda.get_device_properties(device).uuid).removeprefix('GPU-')}"


def _set(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets a flag of torch until `undo` is closed."""
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


@contextmanager
def _refusal(verb: str) -> Iterator[None]:
    """Whatever torch raises becomes one line."""
    try:
        yield
    except MeasurementFailed:
        raise
    except Exception as error:
        raise MeasurementFailed(f"PyTorch does not {verb} it: {first_line(error)}") from error


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
