"""Every operator against ONNX Runtime, then real graphs."""

from __future__ import annotations

import weakref

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_parts import SHAPE, conv, model
from operator_cases import CASES, Arrays, Case, floats, ints
from real_parts import inputs_for, real_parts

from profilers.backends.ort import OrtCpuBackend
from profilers.errors import MeasurementFailed
from profilers.half import half_precision
from profilers.network import compose, random_inputs, signature
from profilers.torch_graph import TorchGraph
from profilers.torch_operators import OPERATORS, Operator

torch = pytest.importorskip("torch")


def by_torch(found: onnx.ModelProto, inputs: Arrays, channels_last: bool = False) -> Arrays:
    graph = TorchGraph(torch, found, channels_last=channels_last)
    with torch.inference_mode():
        outputs = graph(*(graph.tensor(spec, inputs[spec.name]) for spec in graph.inputs))
    return {spec.name: graph.array(spec, value) for spec, value in zip(graph.outputs, outputs, strict=True)}


def by_ort(found: onnx.ModelProto, inputs: Arrays) -> Arrays:
    with OrtCpuBackend() as backend:
        return backend.load(found).run(inputs)


def assert_agree(found: Arrays, wanted: Arrays, rtol: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert (found[name].shape, found[name].dtype) == (values.shape, values.dtype), name
        scale = max(1.0, float(np.abs(values.astype(np.float64)).max(initial=0)))
        np.testing.assert_allclose(found[name], values, rtol=rtol, atol=rtol * scale, err_msg=name)


def test_every_operator_has_a_case() -> None:
    assert CASES.keys() == OPERATORS.keys()


@pytest.mark.parametrize(
    ("kind", "case"),
    [
        pytest.param(kind, case, id=f"{kind}{i}")
        for kind, cases in CASES.items()
        for i, case in enumerate(cases)
    ],
)
def test_operator_agrees_with_onnx_runtime(kind: str, case: Case) -> None:
    found = case.model(kind)
    wanted = by_ort(found, case.inputs)
    for channels_last in (False, True):
        assert_agree(by_torch(found, case.inputs, channels_last), wanted)


bound = st.integers(-9, 9)


@settings(max_examples=150)
@given(bound, bound, st.sampled_from([-3, -2, -1, 1, 2, 3]), st.integers(-2, 1))
def test_any_slice(start: int, end: int, step: int, axis: int) -> None:
    constants = {"s": ints(start), "e": ints(end), "a": ints(axis), "steps": ints(step)}
    x = np.arange(30).reshape(5, 6)
    place = [slice(None), slice(None)]
    place[axis] = slice(start, end, step)
    assert_agree(by_torch(Case({"x": x}, constants).model("Slice"), {"x": x}), {"y0": x[tuple(place)]})


def test_of_equal_values_the_first_come_first() -> None:
    x = np.zeros((2, 5000), np.float32)
    found = by_torch(Case({"x": x}, {"k": ints(7)}, outputs=2).model("TopK"), {"x": x})
    assert found["y1"].tolist() == [list(range(7))] * 2


@pytest.mark.parametrize(
    ("kind", "case", "reason"),
    [
        ("Det", Case({"x": floats(2, 2)}), "operator Det .node 'n'. does not run"),
        (
            "Conv",
            Case({"x": floats(1, 1, 4, 4)}, {"w": floats(1, 1, 3, 3)}, {"auto_pad": "SAME_UPPER"}),
            "SAME",
        ),
        ("Pad", Case({"x": floats(4)}, {"pads": ints(1, 1)}, {"mode": "reflect"}), "Pad with mode reflect"),
        (
            "Resize",
            Case({"x": floats(1, 1, 4, 4)}, {"s": np.full(4, 1.5, np.float32)}, order="x - s"),
            "Resize",
        ),
        ("ReduceMax", Case({"x": floats(4)}, attributes={"axes": [0]}, opset=12), "opset 12.*13"),
        ("Cast", Case({"x": floats(4)}, attributes={"to": TensorProto.FLOAT8E4M3FN}, opset=19), "float8"),
    ],
)
def test_what_does_not_run_is_named(kind: str, case: Case, reason: str) -> None:
    found = case.model(kind)
    found.graph.node[0].name = "n"
    with pytest.raises(MeasurementFailed, match=reason) as caught:
        by_torch(found, case.inputs)
    assert "\n" not in str(caught.value)


def test_a_shape_must_be_a_constant() -> None:
    found = model({"x": (4,)}, {"y": (2, 2)}, [helper.make_node("Reshape", ["x", "s"], ["y"], name="n")])
    found.graph.input.append(helper.make_tensor_value_info("s", TensorProto.INT64, [2]))
    with pytest.raises(MeasurementFailed, match=r"Reshape \(node 'n'\) needs 's' to be a constant"):
        TorchGraph(torch, found)


def test_another_domain_is_another_operator() -> None:
    found = conv()
    found.graph.node[1].domain = "my"
    with pytest.raises(MeasurementFailed, match=r"operator my\.Relu"):
        TorchGraph(torch, found)


def test_what_depends_on_constants_only_is_computed_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        helper.make_node("Neg", ["k"], ["minus"]),
        helper.make_node("Concat", ["minus", "k"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    graph = TorchGraph(torch, model({"x": (2, 6)}, {"y": (12, 1)}, nodes, {"k": ints(1)}))
    monkeypatch.setitem(OPERATORS, "Neg", Operator(lambda *_: pytest.fail("computed again")))
    assert graph(torch.zeros(2, 6))[0].shape == (12, 1)


def test_a_tensor_is_freed_after_its_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[object]] = []
    most = 0

    def relu(torch, attributes, x):  # type: ignore[no-untyped-def]
        nonlocal most
        made = torch.relu(x)
        alive.append(weakref.ref(made))
        most = max(most, sum(ref() is not None for ref in alive))
        return made

    monkeypatch.setitem(OPERATORS, "Relu", Operator(relu))
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(5)]
    graph = TorchGraph(torch, model({"t0": SHAPE}, {"t1": SHAPE, "t5": SHAPE}, nodes))
    assert [out.shape for out in graph(torch.zeros(SHAPE))] == [SHAPE, SHAPE]
    assert most == 3  # t1, which is an output, and the two of the node at work


def test_inputs_of_another_shape_or_type_are_refused() -> None:
    graph = TorchGraph(torch, conv())
    for array in (np.ones((1, 4, 6, 9), np.float32), np.ones(SHAPE)):
        with pytest.raises(MeasurementFailed, match="input 'x' is float"):
            graph.tensor(graph.inputs[0], array)


def test_bfloat16_is_computed_in_bfloat16() -> None:
    found, exact = conv(), conv()
    for value in (*found.graph.input, *found.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    weight = numpy_helper.to_array(found.graph.initializer[0])
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    found.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight.astype(dtype), "w"))
    x = floats(*SHAPE)
    (name,) = (tensor.name for tensor in signature(found).outputs)
    result = by_torch(found, {"x": x.astype(dtype)})[name]
    assert result.dtype == dtype
    wanted = by_torch(exact, {"x": x})[name]
    assert 0 < np.abs(result.astype(np.float32) - wanted).max() < 0.05


class TestRealParts:
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_every_part_agrees_with_onnx_runtime(self, channels_last: bool) -> None:
        for part in real_parts()[0].values():
            inputs = inputs_for(part)
            assert_agree(by_torch(part, inputs, channels_last), by_ort(part, inputs))

    def test_a_whole_detector_agrees_with_onnx_runtime(self) -> None:
        parts, chain = real_parts()
        whole = compose([parts[key] for key in chain])
        inputs = random_inputs(signature(whole).inputs, np.random.default_rng(1))
        wanted = by_ort(whole, inputs)
        assert (wanted["labels"] >= 0).sum() > 5
        for channels_last in (False, True):
            assert_agree(by_torch(whole, inputs, channels_last), wanted)

    def test_a_whole_detector_in_fp16_agrees_with_onnx_runtime(self) -> None:
        parts, chain = real_parts()
        whole = half_precision(compose([parts[key] for key in chain]))
        inputs = random_inputs(signature(whole).inputs, np.random.default_rng(1))
        assert_agree(by_torch(whole, inputs), by_ort(whole, inputs), rtol=5e-3)
