"""An ONNX graph run by PyTorch, one node after another.

A library was looked for first: onnx2torch (1.5, of 2024) has no Pad, Resize, ReduceMax or GreaterOrEqual of
opset 18, which every exported detector uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from profilers.backends import Array
from profilers.errors import MeasurementFailed
from profilers.network import Tensor, signature
from profilers.torch_operators import OPERATORS

OLDEST_OPSET = 13  # before it, axes were attributes and Softmax flattened

_TYPES = {
    TensorProto.BOOL: "bool",
    TensorProto.UINT8: "uint8",
    TensorProto.INT8: "int8",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
}


@dataclass(frozen=True)
class _Step:
    """One node. An operand is (name of a tensor, None) or (None, value)."""

    function: Callable[..., Any]
    attributes: Mapping[str, Any]
    operands: tuple[tuple[str | None, Any], ...]
    outputs: tuple[str, ...]
    last_used: tuple[str, ...]  # tensors that no later node reads

    def run(self, torch: Any, tensors: dict[str, Any]) -> None:
        operands = [value if name is None else tensors[name] for name, value in self.operands]
        made = self.function(torch, self.attributes, *operands)
        for name, value in zip(self.outputs, made if isinstance(made, tuple) else (made,), strict=False):
            tensors[name] = value
        for name in self.last_used:
            del tensors[name]


class TorchGraph:
    """Callable: input tensors in the model's order -> tuple of output tensors.

    What depends on constants only is computed once, here. A call reads no tensor's values on the host, so
    it can be captured as a CUDA graph.

    Args:
        torch: the module.
        model: static shapes, opset 13 or later, no subgraphs.
        device: where the weights go.
        channels_last: lay out features and the weights of convolutions as NHWC.

    Raises:
        MeasurementFailed: an operator, element type or opset that does not run here, by name.
    """

    def __init__(
        self, torch: Any, model: onnx.ModelProto, device: Any = "cpu", channels_last: bool = False
    ) -> None:
        self._torch = torch
        self._device = device
        self._channels_last = channels_last
        self.inputs: tuple[Tensor, ...] = signature(model).inputs
        self.outputs: tuple[Tensor, ...] = signature(model).outputs
        opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if opset < OLDEST_OPSET:
            raise MeasurementFailed(f"the model has opset {opset}: export it with {OLDEST_OPSET} or later")
        constants = {tensor.name: self._constant(tensor) for tensor in model.graph.initializer}
        nodes = [node for node in model.graph.node if not self._fold(node, constants)]
        self._steps = self._planned(nodes, constants)
        read = {name for step in self._steps for name, _ in step.operands} | {t.name for t in self.outputs}
        self._constants = {name: self._placed(value) for name, value in constants.items() if name in read}

    def __call__(self, *inputs: Any) -> tuple[Any, ...]:
        tensors = dict(self._constants)
        tensors.update((spec.name, value) for spec, value in zip(self.inputs, inputs, strict=True))
        for step in self._steps:
            step.run(self._torch, tensors)
        return tuple(tensors[spec.name] for spec in self.outputs)

    def tensor(self, spec: Tensor, array: Array) -> Any:
        """An array as an input of the graph. Raises MeasurementFailed: another type or shape."""
        if (array.dtype, array.shape) != (spec.numpy_dtype, spec.shape):
            raise MeasurementFailed(f"input {spec.name!r} is {spec}, not {array.dtype}{list(array.shape)}")
        return self._placed(self._cpu_tensor(array, spec.dtype))

    def array(self, spec: Tensor, tensor: Any) -> Array:
        """An output of the graph as an array."""
        tensor = tensor.float() if spec.dtype == TensorProto.BFLOAT16 else tensor  # NumPy has no bfloat16
        array: Array = tensor.cpu().contiguous().numpy().astype(spec.numpy_dtype)
        return array

    def _placed(self, tensor: Any) -> Any:
        if self._channels_last and tensor.ndim == 4:
            return tensor.to(self._device, memory_format=self._torch.channels_last)
        return tensor.to(self._device)

    def _constant(self, tensor: onnx.TensorProto) -> Any:
        return self._cpu_tensor(numpy_helper.to_array(tensor), tensor.data_type)

    def _cpu_tensor(self, array: Array, element_type: int) -> Any:
        dtype = self._dtype(element_type)
        if element_type == TensorProto.BFLOAT16:
            array = array.astype(np.float32)
        return self._torch.from_numpy(np.array(array)).to(dtype)

    def _dtype(self, element_type: int) -> Any:
        if element_type not in _TYPES:
            name = TensorProto.DataType.Name(element_type).lower()
            raise MeasurementFailed(f"tensors of type {name} do not run in PyTorch here")
        return getattr(self._torch, _TYPES[element_type])

    def _fold(self, node: onnx.NodeProto, constants: dict[str, Any]) -> bool:
        """Runs a node of constants only, adding to `constants`; False: it is not one."""
        if any(name and name not in constants for name in node.input):
            return False
        self._step(node, constants, last_used=()).run(self._torch, constants)
        return True

    def _planned(self, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Any]) -> list[_Step]:
        uses = Counter(name for node in nodes for name in node.input)
        uses.update(spec.name for spec in self.outputs)
        steps: list[_Step] = []
        for node in nodes:
            uses.subtract(node.input)
            names = {*node.input, *node.output} - constants.keys() - {""}
            last_used = tuple(sorted(name for name in names if not uses[name]))
            steps.append(self._step(node, constants, last_used))
        return steps

    def _step(self, node: onnx.NodeProto, constants: Mapping[str, Any], last_used: tuple[str, ...]) -> _Step:
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        if kind not in OPERATORS:
            raise MeasurementFailed(f"operator {kind} (node {node.name!r}) does not run in PyTorch here")
        operator = OPERATORS[kind]
        folding = all(name in constants for name in node.input if name)
        operands: list[tuple[str | None, Any]] = []
        for i, name in enumerate(node.input):
            constant = constants.get(name)
            if i in operator.static and name:
                if constant is None:
                    raise MeasurementFailed(f"{kind} (node {node.name!r}) needs {name!r} to be a constant")
                operands.append((None, constant.tolist()))
            elif i in operator.scalars and constant is not None and constant.ndim == 0 and not folding:
                operands.append((None, constant.item()))
            else:
                operands.append((name or None, None))
        attributes = {"num_outputs": len(node.output)} | {a.name: self._value(a) for a in node.attribute}
        return _Step(operator.function, attributes, tuple(operands), tuple(node.output), last_used)

    def _value(self, attribute: onnx.AttributeProto) -> Any:
        """An attribute as the operators want it."""
        if attribute.name == "to":
            return self._dtype(attribute.i)
        value = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            return self._constant(value)
        if isinstance(value, bytes):
            return value.decode()
        return list(value) if attribute.type == onnx.AttributeProto.INTS else value
