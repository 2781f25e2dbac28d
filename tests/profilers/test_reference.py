from __future__ import annotations

import hashlib

import numpy as np
import onnx

from profilers.backends.ort import OrtCpuBackend
from profilers.reference import reference_network


def macs(model: onnx.ModelProto) -> int:
    inferred = onnx.shape_inference.infer_shapes(model)
    values = (*inferred.graph.value_info, *inferred.graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    weights = {w.name: int(np.prod(w.dims[1:])) for w in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    return sum(int(np.prod(shapes[node.output[0]])) * weights[node.input[1]] for node in convs)


def test_reference_is_a_small_valid_network() -> None:
    onnx.checker.check_model(reference_network(), full_check=True)
    assert 0.1e9 < macs(reference_network()) < 0.2e9


def test_reference_is_always_the_same() -> None:
    def digest() -> str:
        return hashlib.sha256(reference_network().SerializeToString(deterministic=True)).hexdigest()

    assert digest() == digest()


def test_reference_stays_in_range() -> None:
    image = np.random.default_rng(0).standard_normal((1, 3, 192, 192), np.float32)
    with OrtCpuBackend() as backend:
        features = backend.load(reference_network()).run({"image": image})["features"]
    assert 0.01 < features.std() < 100
