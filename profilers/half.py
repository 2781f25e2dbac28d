"""FP16 where it is safe, written into the graph with Cast nodes, so that every runtime computes alike.

A runtime that is told "use FP16" chooses where; one that keeps the types of the graph (TensorRT from
version 10 on, TensorRT-RTX, ONNX Runtime, PyTorch) does what is written here:

- Conv, ConvTranspose, Gemm and MatMul whose second input, the weight, is constant compute in FLOAT16;
- operators that move, compare or add features (`FOLLOWERS`) stay in FLOAT16 where all their data is;
- everything else (scores, box decoding, NMS) computes in FLOAT32;
- inputs and outputs of four dimensions are FLOAT16, all others FLOAT32, and so is the image. The type thus
  follows from name and shape, and parts chained by the names of their tensors fit as before.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from profilers.errors import InvalidManifest
from profilers.network import OUT

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
IMAGE = "image"
"""The input that stays FLOAT32: what a camera's preprocessing makes."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FOLLOWERS = frozenset(
    {"Add", "AveragePool", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GlobalAveragePool"}
    | {"Identity", "MaxPool", "Pad", "Relu", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split"}
    | {"Squeeze", "Tile", "Transpose", "Unsqueeze"}
)

_Proto = TypeVar("_Proto", onnx.TensorProto, onnx.ValueInfoProto)


def half_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a FLOAT32 model that computes in FLOAT16 where the rule above says so.

    Names of inputs and outputs are kept; shapes are static. A node with a constant beyond the range of
    FLOAT16 stays in FLOAT32. A model converted before comes back as it was.

    Raises:
        InvalidManifest: the model has subgraphs or functions, or a tensor whose type cannot be inferred.
    """
    nested = any(attr.HasField("g") or attr.graphs for node in model.graph.node for attr in node.attribute)
    if nested or model.functions:
        raise InvalidManifest("FP16 needs a flat graph: export without subgraphs (If, Loop) and functions")
    try:
        converted = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise InvalidManifest(f"types cannot be inferred: {str(error).splitlines()[0]}") from error
    _constants_to_initializers(converted.graph)
    graph = _Conversion(converted.graph).graph()
    converted.graph.CopyFrom(graph)
    return converted


class _Conversion:
    """Walks a graph in order; `half` are the FLOAT tensors of the source that are FLOAT16 so far."""

    def __init__(self, source: onnx.GraphProto) -> None:
        self.source = source
        self.nodes: list[onnx.NodeProto] = []
        self.constants = {tensor.name: tensor for tensor in source.initializer}
        # `values` say what tensors are now, `types` what they were.
        self.values = {v.name: v for v in (*source.value_info, *source.input, *source.output)}
        self.types = {name: value.type.tensor_type.elem_type for name, value in self.values.items()}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.copies: dict[str, str] = {}  # tensor -> the same in the other type
        self.half: set[str] = set()
        for value in source.input:
            if value.name not in self.constants and self.types[value.name] == FLOAT and _is_feature(value):
                self._make_half(value.name)

    def graph(self) -> onnx.GraphProto:
        for node in self.source.node:
            self._convert(node)
        self._convert_outputs()
        used = {name for node in self.nodes for name in node.input} | {v.name for v in self.source.output}
        given = {value.name for value in (*self.source.input, *self.source.output)}
        made = [name for node in self.nodes for name in node.output if name and name not in given]
        return helper.make_graph(
            self.nodes,
            self.source.name,
            [value for value in self.source.input if value.name not in self.constants],
            list(self.source.output),
            [tensor for name, tensor in self.constants.items() if name in used],
            value_info=[self.values[name] for name in made],
        )

    def _convert(self, node: onnx.NodeProto) -> None:
        for name in (*node.input, *node.output):
            if name and not self.types.get(name):
                raise InvalidManifest(f"the type of tensor {name!r} ({node.op_type}) cannot be inferred")
        runs_half = self._runs_half(node)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for i in _data_inputs(node):
            copy.input[i] = self._in_type(node.input[i], FLOAT16 if runs_half else FLOAT)
        self.nodes.append(copy)
        for name in node.output:
            if runs_half and name and self.types[name] == FLOAT:
                self._make_half(name)

    def _runs_half(self, node: onnx.NodeProto) -> bool:
        floats = [node.input[i] for i in _data_inputs(node) if self.types.get(node.input[i]) == FLOAT]
        constants = [numpy_helper.to_array(self.constants[name]) for name in floats if name in self.constants]
        if node.domain not in ("", "ai.onnx") or not all(_fits(array) for array in constants):
            return False
        if node.op_type in WEIGHTED:
            return node.input[1] in self.constants and node.input[1] in floats
        data = [name for name in floats if name not in self.constants]
        if node.op_type not in FOLLOWERS or not data or not all(name in self.half for name in data):
            return False
        # A bias varies along one axis; what varies along more (a grid of anchors) is no feature.
        return node.op_type != "Add" or all(sum(d > 1 for d in array.shape) <= 1 for array in constants)

    def _make_half(self, name: str) -> None:
        self.half.add(name)
        self.values[name].type.tensor_type.elem_type = FLOAT16

    def _in_type(self, name: str, wanted: int) -> str:
        """The name of the tensor in that type, if it is a float at all; casts it when needed."""
        if not name or self.types[name] != FLOAT or (name in self.half) == (wanted == FLOAT16):
            return name
        if name not in self.copies:
            copy = self.copies[name] = self._fresh(name, wanted)
            if name in self.constants:
                array = numpy_helper.to_array(self.constants[name]).astype(np.float16)
                self.constants[copy] = numpy_helper.from_array(array, copy)
            else:
                self.nodes.append(helper.make_node("Cast", [name], [copy], name=copy, to=wanted))
                self.values[copy] = _named(self.values[name], copy)
                self.values[copy].type.tensor_type.elem_type = wanted
        return self.copies[name]

    def _convert_outputs(self) -> None:
        """An output that has to leave in the other type is a copy; the copy takes its name."""
        names: dict[str, str] = {}
        for output in self.source.output:
            name, wanted = output.name, FLOAT16 if _is_feature(output) else FLOAT
            if self.types[name] == FLOAT and (name in self.half) != (wanted == FLOAT16):
                copy = self._in_type(name, wanted)
                inner = names[name] = self._fresh(name, FLOAT if wanted == FLOAT16 else FLOAT16)
                names[copy] = name
                self.values[inner] = _named(output, inner)
                output.type.tensor_type.elem_type = wanted
        for node in self.nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        self.constants = {
            new: _named(tensor, new)
            for name, tensor in self.constants.items()
            for new in [names.get(name, name)]
        }

    def _fresh(self, name: str, dtype: int) -> str:
        fresh = f"{name}.{'fp16' if dtype == FLOAT16 else 'fp32'}"
        while fresh in self.types:
            fresh += "_"
        self.types[fresh] = dtype
        return fresh


def _is_feature(value: onnx.ValueInfoProto) -> bool:
    """Whether a float input or output is FLOAT16 after the conversion."""
    return len(value.type.tensor_type.shape.dim) == 4 and value.name.removesuffix(OUT) != IMAGE


def _data_inputs(node: onnx.NodeProto) -> range:
    """Inputs that have the type of the data; region and scales of Resize are FLOAT32 always."""
    return range(1) if node.op_type == "Resize" else range(len(node.input))


def _fits(array: NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(np.isfinite(array.astype(np.float16)), np.isfinite(array)))


def _named(proto: _Proto, name: str) -> _Proto:
    copy = type(proto)()
    copy.CopyFrom(proto)
    copy.name = name
    return copy


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    """So that constants are looked for in one place."""
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            graph.initializer.append(_named(value, node.output[0]))
        else:
            graph.node.append(node)
