"""Small ONNX parts for the tests of profilers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from profilers.manifest import Manifest, Probe, Whole, read_manifest, write_manifest
from profilers.network import OUT

SHAPE = (1, 4, 6, 8)


def model(
    inputs: Mapping[str, Sequence[int]],
    outputs: Mapping[str, Sequence[int]],
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 18,
) -> onnx.ModelProto:
    """A float32 model from its nodes."""
    graph = helper.make_graph(
        list(nodes),
        "part",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(w, n) for n, w in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def conv(
    source: str = "x",
    target: str = "x",
    channels: int = 4,
    name: str = "",
    seed: int = 0,
) -> onnx.ModelProto:
    """A 1x1 convolution from one tensor to another of 6x8."""
    weight = np.random.default_rng(seed).standard_normal((channels, 4, 1, 1)).astype(np.float32)
    out = target + OUT if source == target else target
    nodes = [
        helper.make_node("Conv", [source, "w"], ["hidden"], name=name),
        helper.make_node("Relu", ["hidden"], [out]),
    ]
    return model({source: SHAPE}, {out: (1, channels, 6, 8)}, nodes, {"w": weight})


def chain(key: str, counts: Sequence[int] = (1, 2, 4)) -> list[Probe]:
    """Probes of a workload that repeats."""
    return [Probe(count=n, parts=(key,) * n) for n in counts]


def manifest(
    folder: Path,
    parts: Mapping[str, onnx.ModelProto],
    workloads: Mapping[str, Sequence[Probe]],
    wholes: Sequence[Whole] = (),
) -> Manifest:
    """Write a manifest and read it back."""
    path = write_manifest(
        folder,
        tool_version="1",
        space_hash="space",
        batch=1,
        precision="fp32",
        input_height=6,
        input_width=8,
        parts=parts,
        workloads=workloads,
        wholes=wholes,
    )
    return read_manifest(path)
