"""TensorRT-RTX: engines built ahead of time, without a GPU if need be, and timed on GeForce and RTX GPUs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from types import ModuleType, TracebackType
from typing import Any

from profilers.backends import Facts, Model, bytes_from, model_from
from profilers.builder import (
    EngineBuild,
    cache_key,
    created,
    keep_layers,
    load_engine,
    logger,
    reason,
    write_whole,
)
from profilers.condition import Condition
from profilers.cuda import CudaDevice, open_device
from profilers.engine import EngineSession
from profilers.errors import BackendUnavailable, EngineBuildFailed, MeasurementFailed
from profilers.monitor import Monitor
from profilers.nvml import GpuDevice

INSTALL = "pip install tensorrt-rtx-cu13"
MODEL_FAULTS = {"INSUFFICIENT_GPU_MEMORY", "MALFORMED_ENGINE"}  # other networks may still do


class TensorRTRtxBackend:
    """Runs models with TensorRT-RTX, replayed as CUDA graphs and timed between CUDA events.

    Args:
        gpu: None: the first CUDA device.
        cache: folder for the kernels that are compiled when an engine first runs, and for what became of the
            layers of each engine; None: neither is kept.
    """

    name = "tensorrt-rtx"

    def __init__(self, gpu: GpuDevice | None = None, cache: Path | None = None) -> None:
        self.gpu = gpu
        self.cache = cache
        self._awake: tuple[Any, CudaDevice, Monitor] | None = None
        self._held: list[tuple[Any, ...]] = []
        self._not_capturable: set[str] = set()  # plans, by their SHA-256
        self._undo = ExitStack()

    def __enter__(self) -> TensorRTRtxBackend:
        trt = _tensorrt_rtx()
        with ExitStack() as undo:
            cuda = undo.enter_context(open_device(self.gpu))
            if cuda.compute_capability not in _capability_members(trt):
                raise BackendUnavailable(f"{_unsupported(trt, cuda)}: use the runtime tensorrt")
            monitor = undo.enter_context(Monitor(cuda.uuid))
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
        """A session whose note tells how long compilation took.

        Raises:
            BackendUnavailable: TensorRT-RTX does not run on this GPU or with its driver.
            MeasurementFailed: it does not build or run this model.
        """
        return self.load_plan(self.plan(model), model)

    def plan(self, model: Model) -> bytes:
        trt, cuda, _ = self._entered()
        verbosity = trt.ProfilingVerbosity
        detail = verbosity.LAYER_NAMES_ONLY if self.cache is None else verbosity.DETAILED
        plan, is_capturable = _plan(trt, bytes_from(model), cuda.compute_capability, verbosity=detail)
        if not is_capturable:
            self._not_capturable.add(hashlib.sha256(plan).hexdigest())
        return plan

    def load_plan(self, plan: bytes, model: Model) -> EngineSession:
        trt, cuda, _ = self._entered()
        content, proto = bytes_from(model), model_from(model)
        runtime = created(trt, trt.Runtime)
        _check_validity(trt, cuda, runtime, plan)
        engine = load_engine(trt, runtime, plan)
        if self.cache is not None:
            keep_layers(trt, engine, content, self.cache)
        known = hashlib.sha256(plan).hexdigest() in self._not_capturable
        for is_capturable in (False,) if known else (True, False):  # of a plan of elsewhere nothing is known
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the session captures its own
            if is_capturable:
                config.set_execution_context_allocation_strategy(
                    trt.ExecutionContextAllocationStrategy.USER_MANAGED
                )
            kernels = self._kernels(config, content)
            start = perf_counter()
            context = engine.create_execution_context(config)
            context_ms = (perf_counter() - start) * 1e3
            if context is not None:
                break
        # The binding holds not all that a context needs, and crashes without; a traceback holds the context.
        owners = (kernels, config, engine, runtime)
        self._held.append(owners)
        session = EngineSession(
            trt,
            cuda,
            engine,
            context,
            proto,
            owners,
            capturable=lambda: bool(context.is_stream_capturable(cuda.stream)),
            scratch_bytes=int(engine.device_memory_size_v2) if is_capturable else None,
        )
        self._held.remove(owners)
        session.add_note(
            f"compiled here: context {context_ms:.0f} ms, first run {session.first_run_ms:.0f} ms"
        )
        if self.cache is not None and (compiled := kernels.serialize()) is not None:
            write_whole(self._kernels_file(self.cache, content), bytes(compiled))
        return session

    def describe(self) -> Facts:
        trt, cuda, _ = self._entered()
        return cuda.facts() | {
            "runtime": self.name,
            "runtime_version": str(trt.__version__),
            "threads": None,
            "typing": "strong",
            "tf32": "off",
            "clock": "cuda events",
        }

    def condition(self) -> Condition:
        _, _, monitor = self._entered()
        return monitor.condition()

    def _kernels(self, config: Any, content: bytes) -> Any:
        """The cache of compiled kernels that a context will use, filled with those of an earlier process."""
        kernels = config.create_runtime_cache()
        if self.cache is not None and (path := self._kernels_file(self.cache, content)).exists():
            kernels.deserialize(path.read_bytes())  # refuses what does not fit, and stays empty
        config.set_runtime_cache(kernels)
        return kernels

    def _kernels_file(self, cache: Path, content: bytes) -> Path:
        trt, cuda, _ = self._entered()
        key = cache_key(trt.__version__, cuda.name, cuda.compute_capability)
        return cache / "kernels" / key / f"{hashlib.sha256(content).hexdigest()}.cache"

    def _entered(self) -> tuple[Any, CudaDevice, Monitor]:
        if self._awake is None:
            raise BackendUnavailable("the tensorrt-rtx backend is used inside 'with' only")
        return self._awake


def compute_capabilities() -> tuple[str, ...]:
    """The compute capabilities that the installed TensorRT-RTX builds for, e.g. `("8.6", "8.9")`.

    Raises:
        BackendUnavailable: the package is missing.
    """
    return tuple(sorted(_capability_members(_tensorrt_rtx()), key=float))


def require_compute_capability(compute_capability: str) -> None:
    """Raises BackendUnavailable: the package is missing, or does not build for that compute capability."""
    _capability_member(_tensorrt_rtx(), compute_capability)


def runtime_version() -> str:
    """The version of the installed TensorRT-RTX; an engine runs with exactly that version.

    Raises:
        BackendUnavailable: the package is missing.
    """
    return str(_tensorrt_rtx().__version__)


def build_engine(onnx_model: bytes, *, compute_capability: str, workspace_bytes: int | None = None) -> bytes:
    """Builds a strongly typed engine: the precision of every layer is the one written in the ONNX file.

    Args:
        onnx_model: a serialised ONNX model, weights included, static shapes.
        compute_capability: of the GPU that will run the engine, e.g. `"8.9"`; no GPU is needed here.
        workspace_bytes: upper bound of the scratch memory of a layer; None leaves it to TensorRT-RTX.

    Returns:
        The serialised engine. It runs with this version of TensorRT-RTX only.

    Raises:
        BackendUnavailable: the package is missing, or it does not build for that compute capability.
        EngineBuildFailed: the model is not readable, or has operators or sizes that cannot be built.
    """
    trt = _tensorrt_rtx()
    return _plan(trt, onnx_model, compute_capability, workspace_bytes=workspace_bytes)[0]


def _plan(
    trt: Any,
    model: bytes,
    compute_capability: str,
    workspace_bytes: int | None = None,
    verbosity: Any = None,
) -> tuple[bytes, bool]:
    """An engine, and whether it is of the kind that a CUDA graph can be made of; some models are not."""
    capturable = [trt.BuilderFlag.REQUIRE_USER_ALLOCATION]
    try:
        return _built(trt, model, compute_capability, capturable, workspace_bytes, verbosity), True
    except EngineBuildFailed:
        return _built(trt, model, compute_capability, [], workspace_bytes, verbosity), False


def _built(
    trt: Any,
    model: bytes,
    compute_capability: str,
    flags: Sequence[Any],
    workspace_bytes: int | None,
    verbosity: Any,
) -> bytes:
    member = _capability_member(trt, compute_capability)
    build = EngineBuild(trt, model, [trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED])
    config = build.config
    config.num_compute_capabilities = 1
    # Refused, it would build for the GPU of this machine without a word.
    if not config.set_compute_capability(member, 0):
        raise BackendUnavailable(f"TensorRT-RTX refuses compute capability {compute_capability}")
    config.clear_flag(trt.BuilderFlag.TF32)  # set by default
    for flag in flags:
        config.set_flag(flag)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if verbosity is not None:
        config.profiling_verbosity = verbosity
    return build.plan()


def _check_validity(trt: Any, cuda: CudaDevice, runtime: Any, plan: bytes) -> None:
    """Raises BackendUnavailable: nothing runs here; MeasurementFailed: this engine does not."""
    logger(trt).errors.clear()
    validity, bits = runtime.get_engine_validity(plan)
    if validity != trt.EngineValidity.INVALID:
        return
    members = trt.EngineInvalidityDiagnostics.__members__
    causes = [name for name, member in members.items() if int(member.value) & int(bits)]
    text = ", ".join(causes) or reason(trt)
    if set(causes) and set(causes) <= MODEL_FAULTS:
        raise MeasurementFailed(f"TensorRT-RTX cannot run the engine: {text}")
    raise BackendUnavailable(f"TensorRT-RTX {trt.__version__} does not run on {cuda.name}: {text}")


def _unsupported(trt: Any, cuda: CudaDevice) -> str:
    known = ", ".join(sorted(_capability_members(trt), key=float))
    return (
        f"TensorRT-RTX {trt.__version__} does not support {cuda.name}, compute capability "
        f"{cuda.compute_capability} (it supports {known})"
    )


def _tensorrt_rtx() -> ModuleType:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise BackendUnavailable(f"TensorRT-RTX is missing ({error}): {INSTALL}") from error
    return tensorrt_rtx  # type: ignore[no-any-return]


def _capability_member(trt: Any, compute_capability: str) -> Any:
    members = _capability_members(trt)
    if compute_capability not in members:
        raise BackendUnavailable(
            f"TensorRT-RTX {trt.__version__} does not build for compute capability {compute_capability!r}: "
            f"it builds for {', '.join(sorted(members, key=float))}"
        )
    return members[compute_capability]


def _capability_members(trt: Any) -> dict[str, Any]:
    """`"8.9"` -> ComputeCapability.SM89 for all numbered members."""
    numbered = {
        name: member for name, member in trt.ComputeCapability.__members__.items() if name[2:].isdigit()
    }
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in numbered.items()}
