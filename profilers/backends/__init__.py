"""Backends: each runs ONNX models on one runtime. Found by name, without importing any runtime."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray

from profilers.condition import Condition
from profilers.errors import BackendUnavailable

Model: TypeAlias = onnx.ModelProto | bytes | Path
"""An ONNX model in memory, serialised, or in a file."""

Array: TypeAlias = NDArray[Any]

Facts: TypeAlias = dict[str, str | int | float | None]
"""Provenance: facts about device and runtime; never names of hosts, users or paths."""


class Session(Protocol):
    """One loaded model. Its inputs hold fixed random numbers until `run` is given others."""

    @property
    def weights_bytes(self) -> int | None:
        """Memory of the weights, bytes; None where the runtime does not tell."""

    @property
    def activation_bytes(self) -> int | None:
        """Memory a run needs besides, bytes: activations and scratch; None where nobody tells."""

    @property
    def note(self) -> str | None:
        """What the reader of a row should know, e.g. that no CUDA graph could be made of it."""

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        """Latencies of `iterations` back-to-back runs, ms, in order; less those the clock failed on.

        Compute only: inputs lie on the device, outputs stay there. The first runs after another session ran
        are cold; the caller drops them.

        Raises:
            MeasurementFailed: the runtime refused to run the model.
        """

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for the given inputs (all of them, by name). Raises MeasurementFailed."""

    def close(self) -> None:
        """Free what the model holds; calling it again does nothing."""


class Backend(Protocol):
    """A runtime on a device. `__init__` only stores, `__enter__` wakes the device, `__exit__` frees it."""

    name: str

    def __enter__(self) -> Backend:
        """Wake runtime and device. Raises BackendUnavailable: what to install, what is present."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def load(self, model: Model) -> Session:
        """Load (for some runtimes: build) a model. Raises MeasurementFailed with the runtime's reason."""

    def describe(self) -> Facts:
        """At least `device`, `runtime`, `runtime_version`, `threads`; only inside the `with` block.

        What is here decides whether a table is of the same subject: only facts that stay the same from one
        process to the next.
        """

    def condition(self) -> Condition:
        """State of the device now, cheap enough to be asked after every burst; only inside `with`."""


@runtime_checkable
class EngineBackend(Backend, Protocol):
    """A runtime that builds an engine first, which can be kept: `load` is `load_plan` of `plan`."""

    def plan(self, model: Model) -> bytes:
        """The serialised engine. Raises MeasurementFailed, as `load`."""

    def load_plan(self, plan: bytes, model: Model) -> Session:
        """An engine that was built from `model`. It may execute what it holds: give it only plans of known
        origin. Raises MeasurementFailed."""


BACKENDS: dict[str, str] = {
    "tensorrt": "profilers.backends.trt:TensorRTBackend",
    "tensorrt-rtx": "profilers.backends.rtx:TensorRTRtxBackend",
    "onnxruntime": "profilers.backends.ort:OrtCpuBackend",
    "onnxruntime-cuda": "profilers.backends.ort:OrtCudaBackend",
    "onnxruntime-tensorrt": "profilers.backends.ort:OrtTensorrtBackend",
    "torch-cuda": "profilers.backends.torch_cuda:TorchCudaBackend",
    "fake": "profilers.backends.fake:FakeBackend",
}
"""Name, as in `--runtime`, -> module:class. The module must not import its runtime at the top."""


def backend_by_name(name: str, **options: Any) -> Backend:
    """The backend of that name, not yet entered; options that are not None go to its constructor.

    Raises:
        BackendUnavailable: no such backend, or one that does not take such an option.
    """
    options = {option: value for option, value in options.items() if value is not None}
    known = options_of(name)
    if unknown := [option for option in options if option not in known]:
        raise BackendUnavailable(
            f"runtime {name!r} takes {', '.join(known) or 'no options'}, not {unknown[0]!r}"
        )
    return cast(Backend, _constructor(name)(**options))


def options_of(name: str) -> tuple[str, ...]:
    """Options of the backend of that name. Raises BackendUnavailable: no such backend."""
    return tuple(inspect.signature(_constructor(name)).parameters)


def cache_of(name: str) -> Path | None:
    """Where timing caches and layer information go unless told otherwise; None: nothing is built."""
    return Path("build/engines") / name if "cache" in options_of(name) else None


@contextmanager
def without_cache(backend: Backend) -> Iterator[None]:
    """Inside, what is loaded is built from nothing: without timings, kernels or engines of earlier builds."""
    cache = getattr(backend, "cache", None)
    if cache is None:
        yield
        return
    changed = cast(Any, backend)
    changed.cache = None
    try:
        yield
    finally:
        changed.cache = cache


def _constructor(name: str) -> Any:
    if name not in BACKENDS:
        raise BackendUnavailable(f"no runtime {name!r}: choose one of {', '.join(BACKENDS)}")
    module, _, attribute = BACKENDS[name].partition(":")
    return getattr(import_module(module), attribute)


def model_from(model: Model) -> onnx.ModelProto:
    """The model in memory, wherever it was."""
    if isinstance(model, onnx.ModelProto):
        return model
    return onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(model)


def bytes_from(model: Model) -> bytes:
    """The model serialised, wherever it was."""
    if isinstance(model, onnx.ModelProto):
        return bytes(model.SerializeToString())
    return model if isinstance(model, bytes) else model.read_bytes()
