"""A network: parts (small ONNX models) chained by the names of their tensors.

One ONNX graph cannot have an input and an output of the same name. A part that reads a tensor and makes it
anew (a residual block, `x` to `x`) calls its output `x.out`: the ending `.out` is not part of the name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from profilers.errors import InvalidManifest

OUT = ".out"
"""Ending of an output that has the name of an input of the same model."""


@dataclass(frozen=True)
class Tensor:
    """Name, ONNX element type and static shape of an input or output."""

    name: str
    dtype: int
    shape: tuple[int, ...]

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The element type as NumPy names it."""
        dtype: np.dtype[Any] = onnx.helper.tensor_dtype_to_np_dtype(self.dtype)
        return dtype

    def __str__(self) -> str:
        return f"{onnx.TensorProto.DataType.Name(self.dtype).lower()}{list(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one model, in its own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Binding:
    """How the parts of a network are joined.

    `names[k]` maps the inputs and outputs of part k to names that are unique in the network.
    """

    names: tuple[dict[str, str], ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def signature(model: onnx.ModelProto, label: str = "model") -> Signature:
    """Inputs (initializers excepted) and outputs of a model.

    Raises:
        InvalidManifest: an input or output is not a tensor of static shape.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    return Signature(
        inputs=tuple(_tensor(value, label) for value in model.graph.input if value.name not in weights),
        outputs=tuple(_tensor(value, label) for value in model.graph.output),
    )


def weights_bytes(model: onnx.ModelProto) -> int:
    """Size of all initializers as they lie in memory."""
    sizes = (
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        for tensor in model.graph.initializer
    )
    return sum(sizes)


def bind(signatures: Sequence[Signature], labels: Sequence[str]) -> Binding:
    """Join parts: an input takes the latest tensor of its name, else it is an input of the network.

    Outputs that no later part reads are the outputs of the network, also where a later part makes a tensor of
    the same name (left out, a runtime would remove the nodes that compute them, and their time with them).

    Raises:
        InvalidManifest: a tensor has another type or shape where it is made than where it is read.
    """
    latest: dict[str, tuple[str, Tensor, str]] = {}  # tensor name -> unique name, tensor, who made it
    inputs: list[Tensor] = []
    unread: dict[str, Tensor] = {}
    names: list[dict[str, str]] = []
    for k, (part, label) in enumerate(zip(signatures, labels, strict=True)):
        names.append({})
        for tensor in part.inputs:
            if tensor.name not in latest:
                latest[tensor.name] = (tensor.name, tensor, "an input of the network")
                inputs.append(tensor)
            unique, made, maker = latest[tensor.name]
            if (made.dtype, made.shape) != (tensor.dtype, tensor.shape):
                raise InvalidManifest(
                    f"tensor {tensor.name!r} is {made} from {maker}, {label!r} reads {tensor}"
                )
            unread.pop(unique, None)
            names[k][tensor.name] = unique
        for tensor in part.outputs:
            unique = names[k].setdefault(tensor.name, f"{k}/{tensor.name}")
            latest[tensor.name.removesuffix(OUT)] = (unique, tensor, repr(label))
            unread[unique] = tensor
    # The last output of each name gets it back, so a network binds like a part.
    taken = {tensor.name for tensor in inputs}
    plain: dict[str, str] = {}
    for unique, tensor in reversed(unread.items()):
        name = tensor.name.removesuffix(OUT)
        name = name + OUT if name in taken else name
        if name not in taken:
            taken.add(name)
            plain[unique] = name
    return Binding(
        names=tuple({own: plain.get(unique, unique) for own, unique in part.items()} for part in names),
        inputs=tuple(inputs),
        outputs=tuple(Tensor(plain.get(u, u), t.dtype, t.shape) for u, t in unread.items()),
    )


def compose(parts: Sequence[onnx.ModelProto], labels: Sequence[str] | None = None) -> onnx.ModelProto:
    """Chain parts into one model; every copy of a part has its own weights.

    Args:
        parts: models of one opset, with static shapes; the same model may occur several times.
        labels: what to call the parts in messages.

    Raises:
        InvalidManifest: no parts, differing opsets, or tensors that do not fit.
    """
    if not parts:
        raise InvalidManifest("a network needs at least one part")
    labels = labels or [part.graph.name or f"part {k}" for k, part in enumerate(parts)]
    binding = bind([signature(part, label) for part, label in zip(parts, labels, strict=True)], labels)
    model = onnx.ModelProto(ir_version=max(part.ir_version for part in parts), producer_name="profilers")
    model.graph.name = "network"
    model.opset_import.extend(parts[0].opset_import)
    opsets = {entry.domain: entry.version for entry in parts[0].opset_import}
    functions: dict[tuple[str, str, str], bytes] = {}
    for k, (part, label) in enumerate(zip(parts, labels, strict=True)):
        if {entry.domain: entry.version for entry in part.opset_import} != opsets:
            raise InvalidManifest(f"part {label!r} has other opsets than {labels[0]!r}: export alike")
        if part.graph.sparse_initializer:
            raise InvalidManifest(f"part {label!r} has sparse initializers: export it with dense ones")
        _append(model.graph, part.graph, binding.names[k], prefix=f"{k}/")
        for function in part.functions:
            content = function.SerializeToString(deterministic=True)
            identity = (function.domain, function.name, function.overload)
            if functions.setdefault(identity, content) is content:
                model.functions.append(function)
            elif functions[identity] != content:
                raise InvalidManifest(f"part {label!r} redefines function {function.name!r}: inline it")
    model.graph.input.extend(_value_info(tensor) for tensor in binding.inputs)
    model.graph.output.extend(_value_info(tensor) for tensor in binding.outputs)
    return model


def _append(graph: onnx.GraphProto, part: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """Copy nodes, weights and inner shapes of a part into graph, under unique names."""
    for node in part.node:
        _rename(graph.node.add(), node, names, prefix)
    for tensor in part.initializer:
        copy = graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = names.get(tensor.name, prefix + tensor.name)
    for value in part.value_info:
        if value.name not in names:
            info = graph.value_info.add()
            info.CopyFrom(value)
            info.name = prefix + value.name


def _rename(copy: onnx.NodeProto, node: onnx.NodeProto, names: dict[str, str], prefix: str) -> None:
    copy.CopyFrom(node)
    copy.name = prefix + node.name if node.name else ""
    for refs in (copy.input, copy.output):
        for i, name in enumerate(refs):
            if name:  # "" stands for an optional input or output left out
                refs[i] = names.get(name, prefix + name)
    for attribute in copy.attribute:
        for subgraph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
            _rename_subgraph(subgraph, names, prefix)


def _rename_subgraph(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """ONNX forbids a subgraph to reuse an outer name, so one mapping serves every depth."""
    for node in graph.node:
        original = onnx.NodeProto()
        original.CopyFrom(node)
        _rename(node, original, names, prefix)
    for entry in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        entry.name = names.get(entry.name, prefix + entry.name)


def _tensor(value: onnx.ValueInfoProto, label: str) -> Tensor:
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        raise InvalidManifest(f"{label!r}: {value.name!r} is not a tensor of known shape")
    if not all(dim.HasField("dim_value") for dim in dims):
        raise InvalidManifest(f"{label!r}: {value.name!r} has a dynamic shape: export with static shapes")
    return Tensor(value.name, kind.elem_type, tuple(dim.dim_value for dim in dims))


def _value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(tensor.name, tensor.dtype, tensor.shape)


def random_inputs(inputs: Sequence[Tensor], rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """One array an input: standard normal for floating point (never denormal, never huge), else zeros."""
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in inputs:
        floating = np.issubdtype(tensor.numpy_dtype, np.floating)
        array = rng.standard_normal(tensor.shape, np.float32) if floating else np.zeros(tensor.shape)
        arrays[tensor.name] = array.astype(tensor.numpy_dtype)
    return arrays
