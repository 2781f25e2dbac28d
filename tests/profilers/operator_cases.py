"""Nodes to try an implementation of ONNX's operators on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Arrays = dict[str, np.ndarray]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: `inputs` are given to the graph, `constants` are in it, in the order of `order`."""

    inputs: Arrays
    constants: Arrays = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    order: str = ""  # names, blank-separated, "-" for one left out; default: inputs, then constants
    outputs: int = 1
    opset: int = 18

    def model(self, kind: str) -> onnx.ModelProto:
        names = self.order.split() or [*self.inputs, *self.constants]
        outputs = [f"y{i}" for i in range(self.outputs)]
        node = helper.make_node(kind, [n.replace("-", "") for n in names], outputs, **self.attributes)
        graph = helper.make_graph(
            [node],
            "g",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in self.inputs.items()
            ],
            [helper.make_empty_tensor_value_info(n) for n in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items()],
        )
        found = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        inferred = onnx.shape_inference.infer_shapes(found, strict_mode=True, data_prop=True)
        del found.graph.output[:]
        found.graph.output.extend(inferred.graph.output)
        return found


X = {"x": floats(1, 4, 6, 8)}
POSITIVE = {"x": np.abs(floats(3, 5)) + 0.1}
PAIR = {"a": floats(3, 5), "b": floats(5, seed=1)}
EQUALS = {"a": ints(1, 2, 3, 2), "b": ints(2, 2, 2, 2)}
BOOLS = {"a": np.array([True, True, False]), "b": np.array([True, False, False])}
WEIGHT = floats(6, 4, 3, 3, seed=1)
BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}

CASES: dict[str, list[Case]] = {
    "Abs": [Case(X)],
    "Add": [Case(PAIR), Case(X, {"c": np.float32(0.1)}), Case(X, {"c": np.float32(0.1)}, order="c x")],
    "And": [Case(BOOLS)],
    "AveragePool": [
        Case(X, attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        Case(X, attributes={"kernel_shape": [3, 2], "pads": [1] * 4, "count_include_pad": 1}),
    ],
    "BatchNormalization": [
        Case(X, {n: np.abs(floats(4, seed=i)) + 0.1 for i, n in enumerate("sbmv")}, {"epsilon": 1e-3})
    ],
    "Cast": [
        Case({"x": floats(20) * 3}, attributes={"to": to})
        for to in (TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.DOUBLE)
    ],
    "Ceil": [Case(X)],
    "Clip": [
        Case(X, {"low": np.float32(-0.5), "high": np.float32(0.5)}),
        Case(X, {"high": np.float32(0.5)}, order="x - high"),
        Case(X),
        Case({"x": ints(-3, 0, 9)}, {"low": np.int64(-1), "high": np.int64(5)}),
    ],
    "Concat": [Case({"a": floats(2, 3), "b": floats(2, 1, seed=1)}, attributes={"axis": -1})],
    "Constant": [
        Case({}, attributes={"value": numpy_helper.from_array(floats(2, 3))}),
        Case({}, attributes={"value_float": 0.5}),
        Case({}, attributes={"value_ints": [1, 2]}),
    ],
    "ConstantOfShape": [
        Case({}, {"shape": ints(2, 3)}),
        Case({}, {"shape": ints(2, 3)}, {"value": numpy_helper.from_array(ints(7))}),
    ],
    "Conv": [
        Case(X, {"w": WEIGHT}),
        Case(X, {"w": WEIGHT, "b": floats(6)}, {"pads": [1] * 4, "strides": [2, 2], "dilations": [2, 2]}),
        Case(X, {"w": WEIGHT}, {"pads": [0, 1, 2, 0], "auto_pad": "NOTSET"}),
        Case(X, {"w": floats(8, 2, 3, 3)}, {"group": 2}),
        Case({"x": floats(1, 4, 9)}, {"w": floats(6, 4, 3)}, {"strides": [2]}),
    ],
    "ConvTranspose": [
        Case(
            X,
            {"w": floats(4, 6, 3, 3), "b": floats(6)},
            {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
        ),
        Case(X, {"w": floats(4, 3, 2, 2)}, {"group": 2, "dilations": [2, 2]}),
    ],
    "Div": [Case(PAIR), Case({"a": ints(7, -7, 7, -7), "b": ints(2, 2, -2, -2)})],
    "Equal": [Case(EQUALS)],
    "Erf": [Case(X)],
    "Exp": [Case(X)],
    "Expand": [Case({"x": floats(3, 1)}, {"shape": ints(2, 1, 4)})],
    "Flatten": [Case(X), Case(X, attributes={"axis": 0}), Case(X, attributes={"axis": -1})],
    "Floor": [Case(X)],
    "Gather": [
        Case(X, {"i": np.array(2)}, {"axis": 1}),
        Case(X, {"i": np.array(-1)}, {"axis": -1}),
        Case(X, {"i": ints(2, -1, 0)}, {"axis": 3}),
        Case({"x": floats(5, 3), "i": ints(4, 0, -2).reshape(3, 1)}),
        Case({"x": floats(5, 3), "i": np.array(1)}, attributes={"axis": 1}),
        Case({"i": ints(1, 0)}, {"x": floats(3, 2)}, order="x i"),
    ],
    "Gemm": [
        Case({"a": floats(3, 5)}, {"w": floats(4, 5), "b": floats(4)}, {"transB": 1}),
        Case(
            {"a": floats(5, 3)},
            {"w": floats(5, 4), "b": floats(3, 1)},
            {"transA": 1, "alpha": 0.5, "beta": 2.0},
        ),
        Case({"a": floats(3, 5)}, {"w": floats(5, 4)}, {"alpha": 0.5}),
    ],
    "GlobalAveragePool": [Case(X)],
    "Greater": [Case(EQUALS), Case(X, {"c": np.float32(0.1)})],
    "GreaterOrEqual": [Case(EQUALS)],
    "Identity": [Case(X)],
    "Less": [Case(EQUALS), Case(X, {"c": np.float32(0.1)}, order="c x")],
    "LessOrEqual": [Case(EQUALS)],
    "Log": [Case(POSITIVE)],
    "MatMul": [
        Case({"a": floats(2, 3, 5), "b": floats(5, 4)}),
        Case({"a": floats(5)}, {"w": floats(2, 5, 4)}),
    ],
    "Max": [Case(PAIR), Case({**PAIR, "c": floats(1, 5, seed=2)}), Case(X)],
    "MaxPool": [
        Case(X, attributes={"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4}),
        Case(X, attributes={"kernel_shape": [1, 1], "strides": [2, 2]}),
        Case(X, attributes={"kernel_shape": [2, 2], "pads": [0, 0, 1, 1]}),
        Case(X, attributes={"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "dilations": [1, 2]}),
    ],
    "Min": [Case(PAIR)],
    "Mul": [Case(PAIR), Case({"a": ints(2, 3)}, {"c": np.int64(3)})],
    "Neg": [Case(X)],
    "Not": [Case({"x": BOOLS["a"]})],
    "Or": [Case(BOOLS)],
    "Pad": [
        Case(X, {"pads": ints(0, 0, 1, 2, 0, 0, 0, 1)}),
        Case(X, {"pads": ints(1, 2), "value": np.float32(-1), "axes": ints(-1)}),
        Case(X, {"pads": ints(1, 0, 2, 1), "axes": ints(2, 1)}, order="x pads - axes"),
        Case({"x": ints(1, 2)}, {"pads": ints(1, 0), "value": np.int64(9)}),
        Case(X, {"pads": ints(0, 0, -1, 0, 0, 0, 0, -2)}),
    ],
    "Reciprocal": [Case(POSITIVE)],
    "ReduceMax": [Case(X, {"axes": ints(1, -1)}), Case(X, attributes={"keepdims": 0})],
    "ReduceMean": [
        Case(X, {"axes": ints(2, 3)}, {"keepdims": 0}),
        Case(X, attributes={"axes": [1]}, opset=17),
    ],
    "ReduceMin": [Case(X, {"axes": ints(0)}, {"keepdims": 0})],
    "ReduceSum": [
        Case({"x": ints(1, 2, 3)}),
        Case({"x": np.arange(6, dtype=np.int32).reshape(2, 3)}, {"axes": ints(1)}),
        Case(X, {"axes": ints()}, {"noop_with_empty_axes": 1}),
    ],
    "Relu": [Case(X)],
    "Reshape": [
        Case(X, {"shape": ints(0, -1, 8)}),
        Case(X, {"shape": ints(6, 4, 8)}, {"allowzero": 1}),
        Case({"x": floats(0, 3)}, {"shape": ints(3, 0)}, {"allowzero": 1}),
    ],
    "Resize": [
        Case(X, {"scales": np.array([1, 1, 2, 2], np.float32)}, NEAREST, "x - scales"),
        Case(X, {"sizes": ints(1, 4, 9, 24)}, NEAREST, "x - - sizes"),
        Case(X, {"scales": np.array([1, 1, 2, 2], np.float32)}, BILINEAR, "x - scales"),
        Case(
            X,
            {"sizes": ints(1, 4, 11, 15)},
            BILINEAR | {"coordinate_transformation_mode": "align_corners"},
            "x - - sizes",
        ),
    ],
    "Round": [Case({"x": np.array([0.5, 1.5, -0.5, 2.4], np.float32)})],
    "Sigmoid": [Case(X)],
    "Sign": [Case(X)],
    "Slice": [
        Case(X, {"s": ints(1), "e": ints(2**62), "axes": ints(2)}),
        Case(X, {"s": ints(-1), "e": ints(-(2**62)), "axes": ints(-1), "steps": ints(-2)}),
        Case(X, {"s": ints(0, 1, 0, 1), "e": ints(1, 3, 5, -1)}),
    ],
    "Softmax": [Case(X), Case(X, attributes={"axis": 1})],
    "Split": [
        Case(X, {"sizes": ints(1, 3)}, {"axis": 1}, outputs=2),
        Case(X, attributes={"axis": 3, "num_outputs": 3}, outputs=3),
        Case(X, attributes={"axis": 2}, outputs=2, opset=13),
    ],
    "Sqrt": [Case(POSITIVE)],
    "Squeeze": [Case({"x": floats(1, 3, 1)}, {"axes": ints(-1)}), Case({"x": floats(1, 3, 1)})],
    "Sub": [Case(PAIR), Case(X, {"c": np.float32(0.1)}, order="c x")],
    "Tanh": [Case(X)],
    "Tile": [Case({"x": floats(2, 3)}, {"repeats": ints(2, 1)})],
    "TopK": [
        Case(X, {"k": ints(3)}, outputs=2),
        Case({"x": ints(3, 1, 3, 2, 1)}, {"k": ints(4)}, outputs=2),
        Case(X, {"k": ints(2)}, {"axis": 1, "largest": 0}, outputs=2),
    ],
    "Transpose": [Case(X), Case(X, attributes={"perm": [0, 2, 3, 1]})],
    "Unsqueeze": [
        Case({"x": floats(3, 2)}, {"axes": ints(-1, 0)}),
        Case({"x": floats(3)}, {"axes": ints(1)}),
    ],
    "Where": [Case({"c": BOOLS["a"], "a": floats(3), "b": floats(2, 1)})],
    "Xor": [Case(BOOLS)],
}
