from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_parts import SHAPE, conv, model

from profilers.backends.ort import OrtCpuBackend
from profilers.errors import InvalidManifest
from profilers.network import compose, random_inputs, signature


def run(network: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx.checker.check_model(network, full_check=True)
    with OrtCpuBackend() as backend:
        return backend.load(network).run(inputs)


def names(network: onnx.ModelProto) -> tuple[list[str], list[str]]:
    found = signature(network)
    return [t.name for t in found.inputs], [t.name for t in found.outputs]


def test_chain_computes_the_parts_one_after_another() -> None:
    first, second = conv(seed=1), conv(seed=2)
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    middle = run(first, {"x": x})["x.out"]
    expected = run(second, {"x": middle})["x.out"]
    network = compose([first, second])
    assert names(network) == (["x"], ["x.out"])
    np.testing.assert_allclose(run(network, {"x": x})["x.out"], expected, rtol=1e-5)


def test_every_copy_has_its_own_weights() -> None:
    network = compose([conv()] * 3)
    assert len({tensor.name for tensor in network.graph.initializer}) == 3


def test_latest_tensor_of_a_name_is_read_and_earlier_ones_stay_readable() -> None:
    lateral0, lateral1 = conv("x", "lateral0", seed=3), conv("x", "lateral1", seed=3)
    network = compose([lateral0, conv(seed=1), lateral1])
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    outputs = run(network, {"x": x})
    changed = run(conv(seed=1), {"x": x})["x.out"]
    np.testing.assert_allclose(outputs["lateral0"], run(lateral0, {"x": x})["lateral0"], rtol=1e-5)
    np.testing.assert_allclose(outputs["lateral1"], run(lateral0, {"x": changed})["lateral0"], rtol=1e-5)
    assert set(outputs) == {"lateral0", "lateral1"}


def test_outputs_nobody_reads_are_kept_even_when_made_again() -> None:
    network = compose([conv("x", "y", seed=1), conv("x", "y", seed=2)])
    assert len(names(network)[1]) == 2
    assert names(network)[1][-1] == "y"


def test_composed_network_is_a_part_again() -> None:
    pair = compose([conv(seed=1), conv(seed=2)])
    assert names(compose([pair, pair])) == (["x"], ["x.out"])


def test_tensors_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        InvalidManifest, match=r"'x' is float\[1, 8, 6, 8\] from 'wide', 'narrow' reads float\[1, 4"
    ):
        compose([conv(channels=8), conv()], labels=["wide", "narrow"])


def test_differing_opsets_are_refused() -> None:
    older = model({"x": SHAPE}, {"x.out": SHAPE}, [helper.make_node("Relu", ["x"], ["x.out"])], opset=17)
    with pytest.raises(InvalidManifest, match="opset"):
        compose([conv(), older])


def test_dynamic_shapes_are_refused() -> None:
    dynamic = conv()
    dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(InvalidManifest, match="dynamic"):
        compose([dynamic])


def test_nothing_is_no_network() -> None:
    with pytest.raises(InvalidManifest):
        compose([])


def test_subgraphs_read_the_renamed_outer_tensors() -> None:
    flag = helper.make_node(
        "Constant", [], ["flag"], value=helper.make_tensor("v", TensorProto.BOOL, [], [True])
    )
    branches = [
        helper.make_graph([helper.make_node(kind, ["x"], [f"{kind}.y"])], kind, [], [_value(f"{kind}.y")])
        for kind in ("Neg", "Abs")
    ]
    choice = helper.make_node("If", ["flag"], ["x.out"], then_branch=branches[0], else_branch=branches[1])
    part = model({"x": SHAPE}, {"x.out": SHAPE}, [flag, choice])
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    np.testing.assert_array_equal(run(compose([part] * 3), {"x": x})["x.out"], -x)


def test_random_inputs_have_shape_and_type() -> None:
    part = model({"x": SHAPE}, {"y": SHAPE}, [helper.make_node("Relu", ["x"], ["y"])])
    part.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [2]))
    arrays = random_inputs(signature(part).inputs, np.random.default_rng(0))
    assert arrays["x"].shape == SHAPE and arrays["x"].dtype == np.float32 and arrays["x"].std() > 0.5
    assert arrays["i"].dtype == np.int64 and not arrays["i"].any()


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)
