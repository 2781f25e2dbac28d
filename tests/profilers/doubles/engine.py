"""The half of the doubles that runs: an engine keeps its ONNX model and runs it with ONNX Runtime.

It reads and writes the memory at the addresses it is given, when the stream gets to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

ELEMENT_TYPES = {
    "FLOAT": onnx.TensorProto.FLOAT,
    "HALF": onnx.TensorProto.FLOAT16,
    "INT8": onnx.TensorProto.INT8,
    "INT32": onnx.TensorProto.INT32,
    "BOOL": onnx.TensorProto.BOOL,
    "UINT8": onnx.TensorProto.UINT8,
    "INT64": onnx.TensorProto.INT64,
    "BF16": onnx.TensorProto.BFLOAT16,
}


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        version, flags, model = bytes(serialized_engine).split(b"|", 2)
        if b"VERSION_COMPATIBLE" in flags and not self.engine_host_code_allowed:
            self._trt.double.log("engine contains host code, which is not allowed")
            return None
        if self._trt.double.faults.engine or version.decode() != self._trt.__version__:
            self._trt.double.log(self._trt.double.faults.engine or "engine of another version")
            return None
        return self._trt.ICudaEngine(self._trt, model, flags.decode().split(","))


class Engine:
    def __init__(self, trt: Any, model: bytes, flags: list[str]) -> None:
        self._trt, self._flags = trt, flags
        self._proto = onnx.load_model_from_string(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = {value.name: value for value in self._proto.graph.input}
        self._outputs = {value.name: value for value in self._proto.graph.output}
        self._names = [*self._inputs, *self._outputs]

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name in self._inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> Any:
        location = self._trt.TensorLocation
        return location.HOST if name in self._trt.double.faults.on_the_host else location.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        dims = (self._inputs | self._outputs)[name].type.tensor_type.shape.dim
        return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = {number: kind for kind, number in ELEMENT_TYPES.items()}
        kind = kinds[(self._inputs | self._outputs)[name].type.tensor_type.elem_type]
        members = self._trt.DataType.__members__
        return members.get(kind, members["INT32"])  # TensorRT 8 has no INT64

    def create_execution_context(self) -> Any:
        return self._context(None)

    def _context(self, config: Any) -> Any:
        if self._trt.double.faults.context:
            self._trt.double.log(self._trt.double.faults.context)
            return None
        return self._trt.IExecutionContext(self._trt, self, config)

    def create_engine_inspector(self) -> Any:
        return Inspector(self._trt, self._proto)


class WithMemorySize:
    device_memory_size = 4096


class WithMemorySizeV2:
    device_memory_size_v2 = 4096


class WithEngineStat:
    def get_engine_stat(self, stat: Any) -> int:
        if self._trt.double.faults.engine_stat:
            raise TypeError("cannot create weak reference to 'int' object")
        return sum(4 * int(np.prod(weight.dims)) for weight in self._proto.graph.initializer)


class Inspector:
    def __init__(self, trt: Any, proto: onnx.ModelProto) -> None:
        self._trt, self._proto = trt, proto

    def get_engine_information(self, format: Any) -> str:
        assert format is self._trt.LayerInformationFormat.JSON
        layers = ", ".join(f'"{node.op_type}"' for node in self._proto.graph.node)
        return f'{{"Layers": [{layers}]}}'


class Context:
    def __init__(self, trt: Any, engine: Engine, config: Any) -> None:
        self._trt, self._engine, self._config = trt, engine, config
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._last: tuple[list[bytes], dict[str, np.ndarray]] = ([], {})

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        double, engine = self._trt.double, self._engine
        stream = double.gpu.stream(stream_handle)
        is_captured = stream.captured is not None
        refusal = double.faults.run or (double.faults.capture if is_captured else None)
        missing = {*engine._inputs, *engine._outputs} - {*self._addresses, *self._allocators}
        if missing or refusal or (is_captured and self._allocators):
            double.log(refusal or (f"no address for {missing}" if missing else "shapes depend on the data"))
            return False
        cost_ms = double.node_ms * len(engine._proto.graph.node)
        if not self._allocators:
            double.gpu.enqueue(stream, cost_ms, lambda: self._write(self._computed(), self._addresses))
            return True
        double.gpu.finish(stream)  # TensorRT waits as well, to know the shapes
        outputs = self._computed()
        addresses = dict(self._addresses)
        for name, allocator in self._allocators.items():
            addresses[name] = self._allocated(name, allocator, outputs[name], stream_handle)
            if not addresses[name]:
                double.log(f"no memory for {name}")
                return False
            allocator.notify_shape(name, outputs[name].shape)
        double.gpu.enqueue(stream, cost_ms, lambda: self._write(outputs, addresses))
        return True

    def _allocated(self, name: str, allocator: Any, array: np.ndarray, stream_handle: int) -> int:
        if self._trt.double.major == 8:
            return allocator.reallocate_output(name, 0, array.nbytes, 256)
        return allocator.reallocate_output_async(name, 0, array.nbytes, 256, stream_handle)

    def _computed(self) -> dict[str, np.ndarray]:
        engine = self._engine
        arrays = {name: self._read(name) for name in engine._inputs}
        content = [array.tobytes() for array in arrays.values()]
        if self._last[0] != content:
            found = dict(
                zip(engine._outputs, engine._session.run(list(engine._outputs), arrays), strict=True)
            )
            outputs = {name: array.astype(self._dtype(name)) for name, array in found.items()}
            self._last = content, outputs
        return self._last[1]

    def _dtype(self, name: str) -> np.dtype:
        kind = self._engine.get_tensor_dtype(name).name
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(ELEMENT_TYPES[kind]))

    def _read(self, name: str) -> np.ndarray:
        dtype, shape = self._dtype(name), self._engine.get_tensor_shape(name)
        size = int(np.prod(shape)) * dtype.itemsize
        array = self._trt.double.gpu.bytes_at(self._addresses[name], size).view(dtype).reshape(shape)
        elem_type = self._engine._inputs[name].type.tensor_type.elem_type
        return array.astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type))

    def _write(self, outputs: dict[str, np.ndarray], addresses: dict[str, int]) -> None:
        for name, array in outputs.items():
            content = np.frombuffer(array.tobytes(), np.uint8)
            self._trt.double.gpu.bytes_at(addresses[name], content.size)[:] = content
