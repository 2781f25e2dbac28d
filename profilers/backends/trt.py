"""TensorRT, 8.6 to 11: engines built and timed on the device.

What differs by version: 8 has weak typing alone (the builder is allowed a precision, and chooses), 10 strong
typing on demand (every tensor has the precision that the model gives it), 11 strong typing alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx
from onnx import TensorProto

from profilers.backends import Facts, Model, bytes_from, model_from
from profilers.builder import EngineBuild, cache_key, created, keep_layers, load_engine, logger, write_whole
from profilers.condition import Condition
from profilers.cuda import CudaDevice, open_device
from profilers.engine import EngineSession
from profilers.errors import BackendUnavailable
from profilers.monitor import Monitor
from profilers.nvml import GpuDevice

HARDWARE = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
"""Members of `HardwareCompatibilityLevel` by the names they have here."""

INSTALL = "pip install tensorrt, or tensorrt-cu12==10.4.0 for Volta (compute capability 7.0)"


class TensorRTBackend:
    """Runs models with TensorRT, replayed as CUDA graphs and timed between CUDA events.

    Args:
        gpu: None: the first CUDA device.
        cache: folder for the timing cache, which makes builds faster and gives equal layers equal kernels in
            all engines, and for what became of the layers of each engine; None: neither is kept.
        workspace_bytes: upper bound of the scratch memory of a layer; None leaves it to TensorRT.
        builder_optimization_level: 0 to 5; None leaves it to TensorRT.
        tf32: whether FP32 layers may round their inputs to TF32, on GPUs that can.
        version_compatible: whether engines run in later TensorRT of the same major version, too.
        hardware: `"ampere+"` or `"same-compute-capability"`: what else engines run on; None: this GPU.
    """

    name = "tensorrt"

    def __init__(
        self,
        gpu: GpuDevice | None = None,
        cache: Path | None = None,
        workspace_bytes: int | None = None,
        builder_optimization_level: int | None = None,
        tf32: bool = False,
        version_compatible: bool = False,
        hardware: str | None = None,
    ) -> None:
        self.gpu = gpu
        self.cache = cache
        self.workspace_bytes = workspace_bytes
        self.builder_optimization_level = builder_optimization_level
        self.tf32 = tf32
        self.version_compatible = version_compatible
        self.hardware = hardware
        self._awake: tuple[Any, CudaDevice, Monitor] | None = None
        self._undo = ExitStack()

    def __enter__(self) -> TensorRTBackend:
        trt = _tensorrt()
        with ExitStack() as undo:
            cuda = undo.enter_context(open_device(self.gpu))
            monitor = undo.enter_context(Monitor(cuda.uuid))
            if hasattr(trt, "init_libnvinfer_plugins"):
                trt.init_libnvinfer_plugins(logger(trt), "")
            self._undo = undo.pop_all()
        self._awake = trt, cuda, monitor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._awake = None
        self._undo.close()

    def load(self, model: Model) -> EngineSession:
        return self.load_plan(self.plan(model), model)

    def load_plan(self, plan: bytes, model: Model) -> EngineSession:
        trt, cuda, _ = self._entered()
        content, proto = bytes_from(model), model_from(model)
        runtime = created(trt, trt.Runtime)
        runtime.engine_host_code_allowed = True  # which version-compatible plans bring
        engine = load_engine(trt, runtime, plan)
        if self.cache is not None:
            keep_layers(trt, engine, content, self.cache)
        context = engine.create_execution_context()
        session = EngineSession(trt, cuda, engine, context, proto, owners=(engine, runtime))
        if not _is_strong(trt) and (allowed := _allowed_precisions(proto)):
            session.add_note(f"weakly typed: TensorRT chose where to use {' and '.join(allowed)}")
        return session

    def describe(self) -> Facts:
        trt, cuda, _ = self._entered()
        return cuda.facts() | {
            "runtime": self.name,
            "runtime_version": str(trt.__version__),
            "threads": None,
            "typing": "strong" if _is_strong(trt) else "weak",
            "tf32": "allowed" if self.tf32 else "off",
            "workspace_bytes": self.workspace_bytes,
            "builder_optimization_level": self.builder_optimization_level,
            "clock": "cuda events",
            **({"version_compatible": "yes"} if self.version_compatible else {}),
            **({"hardware": self.hardware} if self.hardware else {}),
        }

    def condition(self) -> Condition:
        _, _, monitor = self._entered()
        return monitor.condition()

    def plan(self, model: Model) -> bytes:
        trt, _, _ = self._entered()
        content = bytes_from(model)
        # 8 does not read ONNX without the first, 11 has it no more; 8 does not have the second.
        members = trt.NetworkDefinitionCreationFlag.__members__
        build = EngineBuild(
            trt, content, [members[name] for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if name in members]
        )
        config = build.config
        if not _is_strong(trt):
            for precision in _allowed_precisions(model_from(model)):
                config.set_flag(getattr(trt.BuilderFlag, precision))
        if not self.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)  # set by default
        if self.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_bytes)
        if self.builder_optimization_level is not None:
            config.builder_optimization_level = self.builder_optimization_level
        if self.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if self.hardware is not None:
            config.hardware_compatibility_level = _hardware_level(trt, self.hardware)
        if self.cache is None:
            return build.plan()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        path = self._timing_cache(self.cache)
        timings = _attached(config, path.read_bytes() if path.exists() else b"")
        plan = build.plan()
        if timings is not None:
            write_whole(path, bytes(config.get_timing_cache().serialize()))
        return plan

    def _timing_cache(self, cache: Path) -> Path:
        trt, cuda, _ = self._entered()
        return cache / "timing" / f"{cache_key(trt.__version__, cuda.name, cuda.compute_capability)}.cache"

    def _entered(self) -> tuple[Any, CudaDevice, Monitor]:
        if self._awake is None:
            raise BackendUnavailable("the tensorrt backend is used inside 'with' only")
        return self._awake


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise BackendUnavailable(f"TensorRT is missing ({error}): {INSTALL}") from error
    return tensorrt


def _hardware_level(trt: Any, hardware: str) -> Any:
    """Raises BackendUnavailable: there is no such level, or not in this release."""
    members = trt.HardwareCompatibilityLevel.__members__
    known = {name: HARDWARE[name] for name in HARDWARE if HARDWARE[name] in members}
    if hardware not in known:
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} builds no engines for {hardware!r}: choose one of {', '.join(known)}"
        )
    return members[known[hardware]]


def _is_strong(trt: Any) -> bool:
    """Whether precision is the model's; after 11 the flag for it may go, as those for weak typing did."""
    weak = hasattr(trt.BuilderFlag, "FP16")
    return not weak or hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def _attached(config: Any, saved: bytes) -> Any:
    """The timing cache that the build will use: the saved one, or a new one where that does not fit."""
    for content in (saved, b""):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
            return timings
    return None


def _allowed_precisions(model: onnx.ModelProto) -> list[str]:
    """Builder flags for what is in the model, as weak typing needs them."""
    nodes = [*_nodes(model.graph), *(node for function in model.functions for node in function.node)]
    flags = ["FP16"] if TensorProto.FLOAT16 in _element_types(model.graph, nodes) else []
    return flags + ["INT8"] * any(node.op_type == "QuantizeLinear" for node in nodes)


def _element_types(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> set[int]:
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.type.tensor_type.elem_type for value in values}
    types |= {tensor.data_type for tensor in graph.initializer}
    for node in nodes:
        for attribute in node.attribute:
            types.add(attribute.t.data_type)
            if node.op_type == "Cast" and attribute.name == "to":
                types.add(attribute.i)
    return types


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)
