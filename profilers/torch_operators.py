"""ONNX operators in PyTorch, for static shapes and inference; opset 13 and later.

Each is a function of the torch module, the node's attributes (tensors and element types as torch has them,
and `num_outputs`) and its inputs. The torch module is an argument so that importing this file does not
import torch.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profilers.errors import MeasurementFailed

Attributes = Mapping[str, Any]


@dataclass(frozen=True)
class Operator:
    """How a node is run.

    Args:
        function: `function(torch, attributes, *inputs)` gives a tensor, or a tuple of several outputs.
        static: inputs that decide a shape: they must be constants, and arrive as numbers or lists.
        scalars: inputs that arrive as a number where they are a constant without dimensions.
    """

    function: Callable[..., Any]
    static: tuple[int, ...] = ()
    scalars: tuple[int, ...] = ()


def _conv(torch: Any, a: Attributes, x: Any, weight: Any, bias: Any = None) -> Any:
    begin, end = _pads(a, x.ndim - 2, "Conv")
    if begin != end:
        x, begin = _padded(torch, x, begin, end, 0.0), [0] * len(begin)
    convolve = getattr(torch, f"conv{x.ndim - 2}d")
    return convolve(x, weight, bias, a.get("strides", 1), begin, a.get("dilations", 1), a.get("group", 1))


def _conv_transpose(torch: Any, a: Attributes, x: Any, weight: Any, bias: Any = None) -> Any:
    begin, end = _pads(a, x.ndim - 2, "ConvTranspose")
    if begin != end or "output_shape" in a:
        raise MeasurementFailed("ConvTranspose with uneven padding or an output_shape does not run here")
    convolve = getattr(torch, f"conv_transpose{x.ndim - 2}d")
    extra, group, dilation = a.get("output_padding", 0), a.get("group", 1), a.get("dilations", 1)
    return convolve(x, weight, bias, a.get("strides", 1), begin, extra, group, dilation)


def _max_pool(torch: Any, a: Attributes, x: Any) -> Any:
    if a["num_outputs"] > 1:
        raise MeasurementFailed("MaxPool with indices does not run here")
    kernel = a["kernel_shape"]
    begin, end = _pads(a, len(kernel), "MaxPool")
    if begin != end or any(2 * pad > size for pad, size in zip(begin, kernel, strict=True)):
        x, begin = _padded(torch, x, begin, end, -math.inf), [0] * len(begin)
    pool = getattr(torch.nn.functional, f"max_pool{len(kernel)}d")
    strides, dilations = a.get("strides", 1), a.get("dilations", 1)
    return pool(x, kernel, strides, begin, dilations, bool(a.get("ceil_mode", 0)))


def _average_pool(torch: Any, a: Attributes, x: Any) -> Any:
    kernel = a["kernel_shape"]
    begin, end = _pads(a, len(kernel), "AveragePool")
    if begin != end or any(step != 1 for step in a.get("dilations", [])):
        raise MeasurementFailed("AveragePool with uneven padding or dilations does not run here")
    pool = getattr(torch.nn.functional, f"avg_pool{len(kernel)}d")
    ceil_mode, include_pad = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
    return pool(x, kernel, a.get("strides", 1), begin, ceil_mode, include_pad)


def _pads(a: Attributes, dims: int, name: str) -> tuple[list[int], list[int]]:
    """Padding before and after, per axis."""
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise MeasurementFailed(f"{name} with auto_pad {a['auto_pad']} does not run here: export with pads")
    pads = a.get("pads", [0] * 2 * dims)
    return pads[:dims], pads[dims:]


def _padded(torch: Any, x: Any, begin: Sequence[int], end: Sequence[int], value: float) -> Any:
    """Pads the last axes; torch lists them from the last to the first."""
    pairs = [pad for pair in zip(reversed(begin), reversed(end), strict=True) for pad in pair]
    return torch.nn.functional.pad(x, pairs, value=value)


def _batch_norm(torch: Any, a: Attributes, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    if a.get("training_mode", 0):
        raise MeasurementFailed("BatchNormalization in training mode does not run here: export for inference")
    return torch.nn.functional.batch_norm(x, mean, var, scale, bias, eps=a.get("epsilon", 1e-5))


def _gemm(torch: Any, a: Attributes, left: Any, right: Any, bias: Any = None) -> Any:
    left = left.T if a.get("transA", 0) else left
    right = right.T if a.get("transB", 0) else right
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    if bias is None:
        product = left @ right
        return product if alpha == 1.0 else alpha * product
    return torch.addmm(bias, left, right, alpha=alpha, beta=beta)


def _div(torch: Any, a: Attributes, left: Any, right: Any) -> Any:
    if left.is_floating_point():
        return torch.div(left, right)
    return torch.div(left, right, rounding_mode="trunc")


def _clip(torch: Any, a: Attributes, x: Any, low: Any = None, high: Any = None) -> Any:
    return x if low is None and high is None else torch.clamp(x, low, high)


def _reduced(name: str) -> Operator:
    def reduce(torch: Any, a: Attributes, x: Any, axes: list[int] | None = None) -> Any:
        axes = axes or a.get("axes") or []
        if not axes and a.get("noop_with_empty_axes", 0):
            return x
        types = {"dtype": x.dtype} if name == "sum" else {}  # torch would widen integers
        keep = bool(a.get("keepdims", 1))
        return getattr(torch, name)(x, dim=axes or list(range(x.ndim)), keepdim=keep, **types)

    return Operator(reduce, static=(1,))


def _top_k(torch: Any, a: Attributes, x: Any, k: list[int]) -> Any:
    """Of equal values the one with the lower index comes first; `torch.topk` does not promise it."""
    axis = a.get("axis", -1)
    values, indices = torch.sort(x, dim=axis, descending=bool(a.get("largest", 1)), stable=True)
    return values.narrow(axis, 0, k[0]), indices.narrow(axis, 0, k[0])


def _reshape(torch: Any, a: Attributes, x: Any, shape: list[int]) -> Any:
    keep = not a.get("allowzero", 0)
    return x.reshape([x.shape[i] if keep and size == 0 else size for i, size in enumerate(shape)])


def _flatten(torch: Any, a: Attributes, x: Any) -> Any:
    axis = a.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(torch: Any, a: Attributes, x: Any, axes: list[int] | None = None) -> Any:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(torch: Any, a: Attributes, x: Any, axes: list[int]) -> Any:
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(torch: Any, a: Attributes, x: Any) -> Any:
    return x.permute(a.get("perm", list(reversed(range(x.ndim)))))


def _split(torch: Any, a: Attributes, x: Any, sizes: list[int] | None = None) -> Any:
    axis = a.get("axis", 0)
    return torch.split(x, sizes or -(-x.shape[axis] // a["num_outputs"]), axis)


def _gather(torch: Any, a: Attributes, x: Any, indices: Any) -> Any:
    axis = a.get("axis", 0) % x.ndim
    if isinstance(indices, int):
        return x.select(axis, indices)
    # An index without dimensions would make torch ask the device for the number.
    place = (*(slice(None),) * axis, indices if indices.ndim else indices.reshape(1))
    return x[place] if indices.ndim else x[place].squeeze(axis)


def _slice(
    torch: Any,
    a: Attributes,
    x: Any,
    starts: list[int],
    ends: list[int],
    axes: list[int] | None = None,
    steps: list[int] | None = None,
) -> Any:
    axes = list(range(len(starts))) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        chosen = range(x.shape[axis])[slice(start, end, step)]
        forward = chosen if step > 0 else chosen[::-1]  # torch has no negative steps
        part = slice(forward.start, forward.stop, forward.step) if forward else slice(0)
        place = (*(slice(None),) * (axis % x.ndim), part)
        x = x[place] if step > 0 else x[place].flip(axis)
    return x


def _expand(torch: Any, a: Attributes, x: Any, shape: list[int]) -> Any:
    return x.expand(torch.broadcast_shapes(x.shape, shape))


def _pad(
    torch: Any, a: Attributes, x: Any, pads: list[int], value: float | None = None, axes: Any = None
) -> Any:
    if a.get("mode", "constant") != "constant":
        raise MeasurementFailed(f"Pad with mode {a['mode']} does not run here")
    begin, end = [0] * x.ndim, [0] * x.ndim
    for i, axis in enumerate(range(x.ndim) if axes is None else axes):
        begin[axis], end[axis] = pads[i], pads[i + len(pads) // 2]
    return _padded(torch, x, begin, end, value or 0)


def _resize(torch: Any, a: Attributes, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    """Nearest by whole factors, or linear; the modes that PyTorch's own exporter writes."""
    mode, grid = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
    exact = [n * scale for n, scale in zip(x.shape, scales, strict=True)] if scales else sizes
    size = [math.floor(n) for n in exact]
    plain = size[:2] == list(x.shape[:2]) and size == exact and "axes" not in a and not a.get("antialias", 0)
    interpolate = functools.partial(torch.nn.functional.interpolate, x, size=size[2:])
    if plain and (mode, grid, a.get("nearest_mode")) == ("nearest", "asymmetric", "floor"):
        return interpolate(mode="nearest")
    if plain and mode == "linear" and x.ndim == 4 and grid in ("half_pixel", "align_corners"):
        return interpolate(mode="bilinear", align_corners=grid == "align_corners")
    raise MeasurementFailed(f"Resize with mode {mode}, {grid}, to {size} does not run here")


def _constant_of_shape(torch: Any, a: Attributes, shape: list[int]) -> Any:
    value = a.get("value")
    if value is None:
        return torch.zeros(shape)
    return torch.full(shape, value.item(), dtype=value.dtype)


def _constant(torch: Any, a: Attributes) -> Any:
    if "value" in a:
        return a["value"]
    (name, value), *_ = ((name, value) for name, value in a.items() if name.startswith("value_"))
    return torch.tensor(value, dtype=torch.float32 if "float" in name else torch.int64)


def _plain(function: Callable[..., Any]) -> Operator:
    """An operator of Python on two tensors, or on a tensor and a number."""
    return Operator(lambda torch, a, left, right: function(left, right), scalars=(0, 1))


def _named(name: str) -> Operator:
    """A function of the torch module without attributes."""
    return Operator(lambda torch, a, *inputs: getattr(torch, name)(*inputs))


def _folded(name: str) -> Operator:
    """A function of two tensors, over any number of them."""
    return Operator(lambda torch, a, *inputs: functools.reduce(getattr(torch, name), inputs))


OPERATORS: dict[str, Operator] = {
    **{name: _named(name.lower()) for name in ("Abs", "Ceil", "Erf", "Exp", "Floor", "Log", "MatMul", "Neg")},
    **{name: _named(name.lower()) for name in ("Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sqrt")},
    **{name: _named(name.lower()) for name in ("Tanh", "Where")},
    **{name: _named(f"logical_{name.lower()}") for name in ("And", "Not", "Or", "Xor")},
    **{name: _plain(getattr(operator, name.lower())) for name in ("Add", "Mul", "Sub")},
    "Equal": _plain(operator.eq),
    "Greater": _plain(operator.gt),
    "GreaterOrEqual": _plain(operator.ge),
    "Less": _plain(operator.lt),
    "LessOrEqual": _plain(operator.le),
    "Max": _folded("maximum"),
    "Min": _folded("minimum"),
    "Div": Operator(_div),
    "ReduceMax": _reduced("amax"),
    "ReduceMean": _reduced("mean"),
    "ReduceMin": _reduced("amin"),
    "ReduceSum": _reduced("sum"),
    "AveragePool": Operator(_average_pool),
    "BatchNormalization": Operator(_batch_norm),
    "Cast": Operator(lambda torch, a, x: x.to(a["to"])),
    "Clip": Operator(_clip, static=(1, 2)),
    "Concat": Operator(lambda torch, a, *tensors: torch.cat(tensors, a["axis"])),
    "Constant": Operator(_constant),
    "ConstantOfShape": Operator(_constant_of_shape, static=(0,)),
    "Conv": Operator(_conv),
    "ConvTranspose": Operator(_conv_transpose),
    "Expand": Operator(_expand, static=(1,)),
    "Flatten": Operator(_flatten),
    "Gather": Operator(_gather, scalars=(1,)),
    "Gemm": Operator(_gemm),
    "GlobalAveragePool": Operator(lambda torch, a, x: x.mean(list(range(2, x.ndim)), keepdim=True)),
    "Identity": Operator(lambda torch, a, x: x),
    "MaxPool": Operator(_max_pool),
    "Pad": Operator(_pad, static=(1, 2, 3)),
    "Reshape": Operator(_reshape, static=(1,)),
    "Resize": Operator(_resize, static=(1, 2, 3)),
    "Slice": Operator(_slice, static=(1, 2, 3, 4)),
    "Softmax": Operator(lambda torch, a, x: torch.softmax(x, a.get("axis", -1))),
    "Split": Operator(_split, static=(1,)),
    "Squeeze": Operator(_squeeze, static=(1,)),
    "Tile": Operator(lambda torch, a, x, repeats: x.repeat(repeats), static=(1,)),
    "TopK": Operator(_top_k, static=(1,)),
    "Transpose": Operator(_transpose),
    "Unsqueeze": Operator(_unsqueeze, static=(1,)),
}
"""By the type of the node, in the domain of ONNX itself."""
