"""INT8 written into the graph with Q/DQ nodes, calibrated on images of the data set.

Convolutions and linear layers whose weight is constant compute in INT8: symmetric, weights per output
channel, activations per tensor, biases in FLOAT32, as TensorRT has it. What decides on boxes and scores stays
in FLOAT32: the first convolution, the last layers of the heads, everything behind them.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from spnas_hw.errors import ExportError

QUANTIZED = ("Conv", "Gemm", "MatMul")
LAST_LAYERS = ("cls", "reg")
"""Names of the exported modules that make logits and deltas."""
COVERED = 0.9999
"""Share of an activation's values within its range; what is beyond saturates."""
VALUES = 1_000_000
"""Of a tensor are looked at, evenly spread."""
_LAST = [[name] for name in LAST_LAYERS]


def sensitive_nodes(model: onnx.ModelProto) -> list[str]:
    """Nodes that stay in FLOAT32 though their weight is constant: the first convolution, the last layers."""
    return [
        node.name
        for node in model.graph.node
        if node.op_type in QUANTIZED
        and (node.input[0] == "image" or node.input[1].split(".")[-2:-1] in _LAST)
    ]


def require_quantiser() -> None:
    """Raises ExportError: ONNX Runtime's quantiser is missing."""
    try:
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"INT8 needs ONNX Runtime's quantiser ({error}): pip install onnxruntime"
        ) from error


def quantized(model: onnx.ModelProto, images: Iterable[NDArray[np.float32]]) -> onnx.ModelProto:
    """A copy of a FLOAT32 detector that computes in INT8.

    Args:
        model: names its input `image` and its weights after their modules, as `detector_onnx` does.
        images: inputs [1, 3, H, W] to find the ranges of activations with; not those of the validation.

    Raises:
        ExportError: ONNX Runtime's quantiser is missing, or refuses the model; there is no image.
    """
    require_quantiser()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    constant = {tensor.name for tensor in model.graph.initializer}
    excluded = set(sensitive_nodes(model))
    chosen = [
        node
        for node in model.graph.node
        if node.op_type in QUANTIZED and node.input[1] in constant and node.name not in excluded
    ]
    found = ranges(model, images, list(dict.fromkeys(node.input[0] for node in chosen)))
    with tempfile.TemporaryDirectory() as folder, _silent():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)  # the quantiser would change a model in memory
        try:
            quantize_static(
                source,
                target,
                _Zeros(model),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED),
                nodes_to_quantize=[node.name for node in chosen],
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "TensorQuantOverrides": {
                        name: [{"rmin": np.float32(-limit), "rmax": np.float32(limit)}]
                        for name, limit in found.items()
                    },
                    "AddQDQPairToWeight": True,
                    # TensorRT fuses a layer with what follows it only where its output stays in float.
                    "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
                },
            )
            return onnx.load(target)
        except Exception as error:  # ONNX Runtime has kinds of its own
            raise _refused(error) from error


def _refused(error: Exception) -> ExportError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return ExportError(f"the detector could not be quantised: {reason}")


def ranges(
    model: onnx.ModelProto, images: Iterable[NDArray[np.float32]], tensors: Sequence[str]
) -> dict[str, float]:
    """What the absolute values of tensors stay below, but for one in ten thousand; the mean over images.

    The extremes grow with the number of images, and with them what INT8 loses: the more one gave, the worse
    it became. One image is in memory at a time.

    Raises:
        ExportError: there is no image, or ONNX Runtime does not run the model.
    """
    import onnxruntime

    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    there = {value.name for value in model.graph.output}
    open_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in there)
    try:
        session = onnxruntime.InferenceSession(
            open_model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime has kinds of its own
        raise _refused(error) from error
    limits = []
    for image in images:
        try:
            values = session.run(list(tensors), {"image": image})
        except Exception as error:
            raise _refused(error) from error
        limits.append([_limit(array) for array in values])
    if not limits:
        raise ExportError("INT8 needs images to find its ranges with, and there is none")
    return dict(zip(tensors, np.mean(limits, axis=0).tolist(), strict=True))


def _limit(values: NDArray[np.float32]) -> float:
    sizes = np.abs(values).ravel()
    return float(np.quantile(sizes[:: max(1, sizes.size // VALUES)], COVERED)) or 1.0


class _Zeros:
    """The one image that the quantiser wants to see; its own ranges are overridden."""

    def __init__(self, model: onnx.ModelProto) -> None:
        shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
        self.left = [{"image": np.zeros(shape, np.float32)}]

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return self.left.pop() if self.left else None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """It recommends a preprocessing that has been done, on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
