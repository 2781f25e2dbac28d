from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_parts import model
from real_parts import inputs_for, real_parts

from profilers.backends.ort import OrtCpuBackend
from profilers.errors import InvalidManifest
from profilers.half import FOLLOWERS, IMAGE, WEIGHTED, half_precision
from profilers.network import OUT, compose, signature, weights_bytes

FLOAT, FLOAT16 = TensorProto.FLOAT, TensorProto.FLOAT16
FEATURE = (1, 4, 6, 8)
PRECISE = {
    "Sigmoid",
    "Softmax",
    "Exp",
    "Mul",
    "Sub",
    "Div",
    "Clip",
    "Min",
    "Max",
    "Sqrt",
    "TopK",
    "Less",
    "Tanh",
}
"""Never in FLOAT16."""


def types(converted: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, as inferred anew from inputs and weights."""
    bare = onnx.ModelProto()
    bare.CopyFrom(converted)
    del bare.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True).graph
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    return values | {tensor.name: tensor.data_type for tensor in graph.initializer}


def half_nodes(converted: onnx.ModelProto) -> set[str]:
    """Operators that compute in FLOAT16, Cast not counted."""
    kinds = types(converted)
    touched = {
        node.op_type
        for node in converted.graph.node
        if any(kinds[name] == FLOAT16 for name in (*node.input, *node.output) if name)
    }
    return touched - {"Cast"}


def run(found: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with OrtCpuBackend() as backend:
        session = backend.load(found)
        return session.run({t.name: inputs[t.name].astype(t.numpy_dtype) for t in signature(found).inputs})


def assert_sound(source: onnx.ModelProto, rtol: float = 1e-2) -> onnx.ModelProto:
    """The conversion keeps the rule, the names and, nearly, the numbers."""
    before = source.SerializeToString(deterministic=True)
    converted = half_precision(source)
    assert source.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(converted, full_check=True)
    old, new = signature(source), signature(converted)
    for was, now in zip((*old.inputs, *old.outputs), (*new.inputs, *new.outputs), strict=True):
        is_feature = len(was.shape) == 4 and was.name.removesuffix(OUT) != IMAGE
        wanted = FLOAT16 if was.dtype == FLOAT and is_feature else was.dtype
        assert (now.name, now.shape, now.dtype) == (was.name, was.shape, wanted)
    assert half_nodes(converted).isdisjoint(PRECISE)
    assert half_nodes(converted) <= WEIGHTED | FOLLOWERS
    inputs = inputs_for(source)
    exact, found = run(source, inputs), run(converted, inputs)
    for name, values in exact.items():
        scale = max(1.0, float(np.abs(values.astype(np.float64)).max(initial=0)))
        np.testing.assert_allclose(found[name], values, rtol=rtol, atol=rtol * scale, err_msg=name)
    again = half_precision(converted)
    assert again.SerializeToString(deterministic=True) == converted.SerializeToString(deterministic=True)
    return converted


class TestRealParts:
    def test_every_part_is_sound(self) -> None:
        for part in real_parts()[0].values():
            assert_sound(part)

    def test_weights_of_layers_are_halved(self) -> None:
        parts, _ = real_parts()
        for key, part in parts.items():
            if key.startswith(("stem", "basic", "lateral")):
                assert 2 * weights_bytes(half_precision(part)) == weights_bytes(part), key

    def test_postprocessing_stays_as_it_is(self) -> None:
        parts, _ = real_parts()
        (key,) = [key for key in parts if key.startswith("postprocess")]
        converted = half_precision(parts[key])
        assert not half_nodes(converted)
        assert [n.op_type for n in converted.graph.node] == [n.op_type for n in parts[key].graph.node]

    def test_a_whole_detector_of_converted_parts(self) -> None:
        parts, chain = real_parts()
        exact = compose([parts[key] for key in chain])
        chained = compose([half_precision(parts[key]) for key in chain])
        onnx.checker.check_model(chained, full_check=True)
        assert_sound(exact)
        inputs = inputs_for(exact)
        found, wanted = run(chained, inputs), run(exact, inputs)
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-2, atol=1e-2, err_msg=name)

    def test_tensorrt_rtx_builds_a_part_and_the_whole(self) -> None:
        pytest.importorskip("tensorrt_rtx")
        from profilers.backends.rtx import build_engine

        parts, chain = real_parts()
        whole = compose([parts[key] for key in chain])
        for source in (parts[chain[1]], whole):
            content = half_precision(source).SerializeToString()
            assert build_engine(content, compute_capability="8.9")


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, outputs, **attributes)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_image_stays_float32() -> None:
    source = model(
        {"image": FEATURE},
        {"x": (1, 2, 6, 8)},
        [node("Conv", ["image", "w"], ["x"])],
        {"w": weight(2, 4, 1, 1)},
    )
    converted = assert_sound(source)
    assert [n.op_type for n in converted.graph.node] == ["Cast", "Conv"]


def test_features_that_are_no_floats_stay() -> None:
    graph = helper.make_graph(
        [node("Identity", ["ids"], ["same"])],
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, FEATURE)],
        [helper.make_tensor_value_info("same", TensorProto.INT64, FEATURE)],
    )
    converted = half_precision(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert signature(converted).inputs[0].dtype == TensorProto.INT64


def test_a_weight_beyond_the_range_of_float16_stays_float32() -> None:
    large = weight(4, 4, 1, 1)
    large[0, 0] = 1e5
    source = model({"x": FEATURE}, {"y": FEATURE}, [node("Conv", ["x", "w"], ["y"])], {"w": large})
    assert not half_nodes(half_precision(source))


@pytest.mark.parametrize(("shape", "is_half"), [((4, 1, 1), True), ((), True), ((6, 8), False)])
def test_a_bias_is_added_in_float16_but_a_grid_is_not(shape: tuple[int, ...], is_half: bool) -> None:
    source = model({"x": FEATURE}, {"y": FEATURE}, [node("Add", ["x", "b"], ["y"])], {"b": weight(*shape)})
    assert half_nodes(assert_sound(source)) == ({"Add"} if is_half else set())


@pytest.mark.parametrize(("order", "is_half"), [(["x", "w"], True), (["w", "x"], False)])
def test_of_a_matmul_the_second_input_is_the_weight(order: list[str], is_half: bool) -> None:
    source = model({"x": (5, 5)}, {"y": (5, 5)}, [node("MatMul", order, ["y"])], {"w": weight(5, 5)})
    assert half_nodes(assert_sound(source)) == ({"MatMul"} if is_half else set())


def test_a_product_of_two_tensors_stays_float32() -> None:
    source = model({"a": FEATURE, "b": (1, 4, 8, 6)}, {"y": (6, 6)}, [
        node("MatMul", ["a", "b"], ["c"]),
        node("ReduceMax", ["c"], ["y"], keepdims=0, axes=[0, 1]),
    ], opset=13)  # fmt: skip
    assert not half_nodes(half_precision(source))


def test_a_tensor_needed_in_both_types_is_cast_once() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Sigmoid", ["c"], ["s"]),
        node("Exp", ["c"], ["e"]),
        node("Mul", ["s", "e"], ["y"]),
    ]
    converted = assert_sound(model({"x": FEATURE}, {"y": FEATURE}, nodes, {"w": weight(4, 4, 1, 1)}))
    assert [n.op_type for n in converted.graph.node].count("Cast") == 2  # of c, and of the output


def test_an_output_is_cast_once_for_a_layer_behind_it_as_well() -> None:
    """`s` leaves as FLOAT16, is read as FLOAT32 by Exp and as FLOAT16 by Conv."""
    nodes = [
        node("Sigmoid", ["x"], ["s"]),
        node("Conv", ["s", "w"], ["y"]),
        node("Exp", ["s"], ["e"]),
        node("ReduceMean", ["e"], ["m"], keepdims=0),
    ]
    outputs = {"s": FEATURE, "y": FEATURE, "m": ()}
    converted = assert_sound(model({"x": FEATURE}, outputs, nodes, {"w": weight(4, 4, 1, 1)}))
    assert [n.op_type for n in converted.graph.node].count("Cast") == 2  # of x, and of s


def test_a_flat_output_of_a_layer_leaves_as_float32() -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Flatten", ["c"], ["logits"])]
    assert_sound(model({"x": FEATURE}, {"logits": (1, 192)}, nodes, {"w": weight(4, 4, 1, 1)}))


def test_scales_of_resize_stay_float32() -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [node("Resize", ["x", "", "scales"], ["y"], mode="nearest")]
    converted = assert_sound(model({"x": FEATURE}, {"y": (1, 4, 12, 16)}, nodes, {"scales": scales}))
    assert half_nodes(converted) == {"Resize"}


def test_weights_may_be_constant_nodes() -> None:
    value = numpy_helper.from_array(weight(4, 4, 1, 1))
    nodes = [node("Constant", [], ["w"], value=value), node("Conv", ["x", "w"], ["y"])]
    assert half_nodes(assert_sound(model({"x": FEATURE}, {"y": FEATURE}, nodes))) == {"Conv"}


def test_a_constant_that_is_an_output() -> None:
    nodes = [node("Relu", ["x"], ["y"])]
    assert_sound(model({"x": FEATURE}, {"y": FEATURE, "w": (1, 2, 3, 4)}, nodes, {"w": weight(1, 2, 3, 4)}))


def test_a_name_in_use_is_not_taken() -> None:
    nodes = [node("Relu", ["x"], ["x.fp32"]), node("Exp", ["x"], ["e"]), node("Mul", ["x.fp32", "e"], ["y"])]
    assert_sound(model({"x": FEATURE}, {"y": FEATURE}, nodes))


def test_subgraphs_are_refused() -> None:
    body = helper.make_graph([node("Identity", ["x"], ["b"])], "b", [], [
        helper.make_tensor_value_info("b", FLOAT, FEATURE)
    ])  # fmt: skip
    nodes = [node("If", ["c"], ["y"], then_branch=body, else_branch=body)]
    source = model({"x": FEATURE}, {"y": FEATURE}, nodes, {"c": np.array(True)})
    with pytest.raises(InvalidManifest, match="subgraphs"):
        half_precision(source)


def test_an_operator_nobody_knows_is_named() -> None:
    nodes = [node("Mine", ["x"], ["m"], domain="my"), node("Relu", ["m"], ["y"])]
    source = model({"x": FEATURE}, {"y": FEATURE}, nodes)
    source.opset_import.append(helper.make_opsetid("my", 1))
    with pytest.raises(InvalidManifest, match=r"'m' \(Mine\) cannot be inferred"):
        half_precision(source)


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """Feature maps through layers, followers and operators that need FLOAT32, in any order."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    tensors = ["image", "x"]
    for i in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["Conv", "Relu", "Sigmoid", "Add", "Max", "MaxPool", "Identity", "Tanh"]))
        inputs = [draw(st.sampled_from(tensors))]
        attributes: dict[str, object] = {}
        if kind in ("Add", "Max"):
            inputs.append(draw(st.sampled_from(tensors)))
        if kind == "Conv":
            weights[f"w{i}"] = 0.3 * np.random.default_rng(i).standard_normal((4, 4, 3, 3), np.float32)
            inputs.append(f"w{i}")
            attributes = {"pads": [1] * 4}
        if kind == "MaxPool":
            attributes = {"kernel_shape": [3, 3], "pads": [1] * 4}
        nodes.append(node(kind, inputs, [f"t{i}"], **attributes))
        tensors.append(f"t{i}")
    wanted = draw(st.sets(st.sampled_from(tensors[2:]), min_size=1, max_size=3))
    nodes.append(node("ReduceMean", [tensors[-1]], ["score"], keepdims=0))
    outputs = {name: FEATURE for name in sorted(wanted)} | {"score": ()}
    return model({"image": FEATURE, "x": FEATURE}, outputs, nodes, weights)


@settings(max_examples=40)
@given(networks())
def test_any_network_is_sound(network: onnx.ModelProto) -> None:
    converted = assert_sound(network, rtol=3e-2)
    kinds = types(converted)
    assert {kinds[n.output[0]] for n in converted.graph.node if n.op_type == "Conv"} <= {FLOAT16}
