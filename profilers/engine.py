"""A session of TensorRT or TensorRT-RTX: an engine in a context, run on one stream, timed as a CUDA graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from profilers.backends import Array
from profilers.builder import logger, product, reason
from profilers.cuda import CudaDevice, Graph
from profilers.errors import MeasurementFailed
from profilers.network import Tensor, random_inputs, weights_bytes

SAMPLE_MS = 1.0  # at least, between two events: their clock steps by half a microsecond
HOST_BOUND = 0.8  # of the time of a run; beyond, launching may be what is timed (the threshold of trtexec)

_ELEMENT_TYPES = {
    "FLOAT": TensorProto.FLOAT,
    "HALF": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "INT8": TensorProto.INT8,
    "UINT8": TensorProto.UINT8,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
}
"""ONNX element types by the names of TensorRT's `DataType`."""


class EngineSession:
    """One engine on a device, its inputs and outputs in fixed device memory.

    Attributes:
        first_run_ms: time on the host of the first run, which may include compilation.

    Args:
        cuda: stays open as long as the session.
        context: execution context of the engine; None: it could not be made.
        model: what the engine was built from.
        owners: what the context must not outlive, let go of in this order: the engine, its runtime, ..
        capturable: asked after the first run whether to try a CUDA graph.
        scratch_bytes: memory that the context wants to be given; None: it allocates its own.

    Raises:
        MeasurementFailed: too little memory, or the engine does not run.
    """

    def __init__(
        self,
        trt: Any,
        cuda: CudaDevice,
        engine: Any,
        context: Any,
        model: onnx.ModelProto,
        owners: Sequence[Any],
        capturable: Callable[[], bool] = lambda: True,
        scratch_bytes: int | None = None,
    ) -> None:
        if context is None:
            raise MeasurementFailed(f"{product(trt)} makes no execution context: {reason(trt)}")
        self._trt, self._cuda, self._context, self._owners = trt, cuda, context, list(owners)
        self.weights_bytes: int | None = _engine_weights_bytes(trt, engine) or weights_bytes(model)
        size = getattr(engine, "device_memory_size_v2", None)  # TensorRT 8 lacks the one, 11 the other
        self.activation_bytes: int | None = int(engine.device_memory_size if size is None else size) or None
        self.note: str | None = None
        self._inputs: dict[str, tuple[Tensor, int]] = {}  # with its address
        self._outputs: dict[str, _Output] = {}
        self._scratch = 0
        self._graph: Graph | None = None
        # Callers see the types of the model; TensorRT 8 makes int32 of its int64.
        values = (*model.graph.input, *model.graph.output)
        self._model_types = {value.name: value.type.tensor_type.elem_type for value in values}
        try:
            if scratch_bytes is not None:
                self._scratch = cuda.malloc(scratch_bytes)
                context.set_device_memory(self._scratch, scratch_bytes)
            self._bind(engine)
            tensors = [tensor for tensor, _ in self._inputs.values()]
            self._fill(random_inputs(tensors, np.random.default_rng(0)))
            start = perf_counter()
            self._enqueue()
            cuda.synchronize()
            self.first_run_ms = (perf_counter() - start) * 1e3
            self._launch = self._captured(capturable)
            self._group = self._group_size()
        except BaseException:
            self.close()
            raise

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        """Runs are timed in groups that last `SAMPLE_MS`; each run gets the mean of its group."""
        self._begin()
        groups = math.ceil(iterations / self._group)
        return np.repeat(self._cuda.time_ms(self._launch, groups, self._group), self._group)[:iterations]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._begin()
        if set(self._inputs) != set(inputs):
            raise MeasurementFailed(f"the model takes inputs {list(self._inputs)}, not {list(inputs)}")
        for name, (tensor, _) in self._inputs.items():
            wanted, array = Tensor(name, self._model_types[name], tensor.shape), inputs[name]
            if (array.dtype, array.shape) != (wanted.numpy_dtype, wanted.shape):
                raise MeasurementFailed(f"input {name!r} is {wanted}, not {array.dtype}{list(array.shape)}")
        self._fill(inputs)
        self._launch()
        self._cuda.synchronize()
        return {name: self._fetched(output) for name, output in self._outputs.items()}

    def close(self) -> None:
        if self._context is None:
            return
        with suppress(MeasurementFailed):  # what is broken is freed all the same
            self._cuda.synchronize()
        if self._graph is not None:
            self._graph.close()
        self._context = self._graph = None
        while self._owners:
            self._owners.pop(0)
        addresses = [self._scratch, *(address for _, address in self._inputs.values())]
        for address in (*addresses, *(output.address for output in self._outputs.values())):
            self._cuda.free(address)

    def add_note(self, text: str) -> None:
        self.note = text if self.note is None else f"{self.note}; {text}"

    def _begin(self) -> None:
        if self._context is None:
            raise MeasurementFailed("this session was closed")
        logger(self._trt).errors.clear()
        for output in self._outputs.values():
            output.failure = None

    def _bind(self, engine: Any) -> None:
        trt = self._trt
        for name in [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]:
            tensor = _tensor(engine, name)
            is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            is_dynamic = min(tensor.shape, default=0) < 0
            if engine.get_tensor_location(name) == trt.TensorLocation.HOST or (is_input and is_dynamic):
                raise MeasurementFailed(f"tensor {name!r} decides on shapes: export with static shapes")
            if is_input:
                address = self._cuda.malloc(_size_bytes(tensor))
                self._inputs[name] = tensor, address
                self._context.set_tensor_address(name, address)
                continue
            output = self._outputs[name] = _Output(self._cuda, tensor)
            if is_dynamic:
                self._context.set_output_allocator(name, _allocator(trt, output))
            else:
                self._context.set_tensor_address(name, output.reserve(_size_bytes(tensor)))

    def _fill(self, inputs: Mapping[str, Array]) -> None:
        for name, (tensor, address) in self._inputs.items():
            self._cuda.copy_in(inputs[name].astype(tensor.numpy_dtype, copy=False), address)

    def _fetched(self, output: _Output) -> Array:
        array = np.empty(output.shape, output.tensor.numpy_dtype)
        self._cuda.copy_out(output.address, array)
        wanted = onnx.helper.tensor_dtype_to_np_dtype(self._model_types[output.tensor.name])
        return array.astype(wanted, copy=False)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            refused = [output.failure for output in self._outputs.values() if output.failure]
            raise MeasurementFailed(f"{product(self._trt)} does not enqueue it: {reason(self._trt, refused)}")

    def _captured(self, capturable: Callable[[], bool]) -> Callable[[], None]:
        """What launches a run: a CUDA graph, or an enqueue where none can be made."""
        self._begin()
        try:
            if not capturable():
                raise MeasurementFailed(f"{product(self._trt)} does not allow it")
            self._graph = self._cuda.capture(self._enqueue)
            return self._graph.launch
        except MeasurementFailed as error:
            self.add_note(f"no CUDA graph, times include enqueuing: {error}")
        self._begin()
        self._enqueue()  # fails if the attempt broke more than the capture
        self._cuda.synchronize()
        return self._enqueue

    def _group_size(self) -> int:
        """Runs between two events."""
        run_ms, group = math.inf, 1
        for _ in range(2):  # the second time with the resolution that the first lacks
            run_ms = float(np.median(self._cuda.time_ms(self._launch, 5, group)))
            group = max(1, math.ceil(SAMPLE_MS / max(run_ms, 1e-3)))
        start = perf_counter()
        for _ in range(5 * group):
            self._launch()
        launch_ms = (perf_counter() - start) * 1e3 / (5 * group)
        self._cuda.synchronize()
        if launch_ms > HOST_BOUND * run_ms:
            self.add_note(f"the host needs {launch_ms:.3f} ms to launch a run of {run_ms:.3f} ms")
        return group


class _Output:
    """An output, and its memory, which grows where the shape depends on the data."""

    def __init__(self, cuda: CudaDevice, tensor: Tensor) -> None:
        self.tensor = tensor
        self.shape = tensor.shape
        self.address = 0
        self.failure: str | None = None
        self._cuda = cuda
        self._size_bytes = -1

    def reserve(self, size_bytes: int) -> int:
        """Address of at least so much memory."""
        if size_bytes > self._size_bytes:
            self._cuda.free(self.address)
            self.address, self._size_bytes = 0, -1
            self.address, self._size_bytes = self._cuda.malloc(size_bytes), size_bytes
        return self.address


def _allocator(trt: Any, output: _Output) -> Any:
    """Gives TensorRT the memory of an output whose size is known only while the engine runs."""

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]
        def reallocate_output(self, name: str, memory: int, size: int, alignment: int) -> int:
            try:  # an exception cannot pass through TensorRT; address 0 makes it give up
                return output.reserve(size)
            except MeasurementFailed as error:
                output.failure = str(error)
                return 0

        def reallocate_output_async(
            self, name: str, memory: int, size: int, alignment: int, stream: int
        ) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            output.shape = tuple(shape)

    return OutputAllocator()


def _tensor(engine: Any, name: str) -> Tensor:
    kind = engine.get_tensor_dtype(name).name
    if kind not in _ELEMENT_TYPES:
        raise MeasurementFailed(f"tensor {name!r} is {kind}: make inputs and outputs of another type")
    return Tensor(name, _ELEMENT_TYPES[kind], tuple(engine.get_tensor_shape(name)))


def _size_bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.numpy_dtype.itemsize


def _engine_weights_bytes(trt: Any, engine: Any) -> int | None:
    """What the engine says of its weights; None before TensorRT 10.16 or so."""
    if not hasattr(engine, "get_engine_stat"):
        return None
    try:
        size = int(engine.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))
    except (TypeError, RuntimeError):  # bindings that want to hold the number as if it were an object
        return None
    return size if size > 0 else None
