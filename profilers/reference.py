"""The reference network: a fixed small convolution network whose latency tells how fast the device is now.

Every latency is measured beside it and expressed in it, so a device that slows down or speeds up during a run
(clocks, heat, a neighbour) does not shift the table. It has the mix of the search spaces: 3x3 and 1x1
convolutions, ReLU and residual additions at three resolutions.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

_STAGE_CHANNELS = (16, 32, 64)  # at 96x96, 48x48, 24x24


def reference_network() -> onnx.ModelProto:
    """About 0.17 GMAC; `image` [1,3,192,192] float32 -> `features` [1,64,24,24]. Always the same."""
    rng = np.random.default_rng(20200616)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def conv(tensor: str, channels_in: int, channels: int, kernel: int, stride: int = 1) -> str:
        name = f"conv{len(weights)}"
        scale = (2.0 / (channels_in * kernel * kernel)) ** 0.5
        weight = scale * rng.standard_normal((channels, channels_in, kernel, kernel), np.float32)
        weights.append(onnx.numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        pads, strides = [kernel // 2] * 4, [stride, stride]
        inputs = [tensor, f"{name}.weight"]
        nodes.append(
            helper.make_node("Conv", inputs, [name], kernel_shape=[kernel] * 2, pads=pads, strides=strides)
        )
        return name

    def relu(tensor: str) -> str:
        nodes.append(helper.make_node("Relu", [tensor], [f"{tensor}.relu"]))
        return f"{tensor}.relu"

    x, width = "image", 3
    for channels in _STAGE_CHANNELS:
        x = relu(conv(x, width, channels, 3, stride=2))
        width = channels
        for _ in range(2):
            inner = conv(relu(conv(x, width, width, 3)), width, width, 1)
            nodes.append(helper.make_node("Add", [x, inner], [f"{inner}.add"]))
            x = relu(f"{inner}.add")
    nodes.append(helper.make_node("Identity", [x], ["features"]))
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 192, 192])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 64, 24, 24])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
