from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from profilers.backends import backend_by_name
from spnas_hw.detection.detector import build_model
from spnas_hw.detection.inference import detect
from spnas_hw.errors import ExportError
from spnas_hw.export.detector import OUTPUTS, detector_onnx, exportable, onnx_from_module
from spnas_hw.export.engine import engine_from_onnx
from spnas_hw.export.parity import CLOSE, Comparison
from spnas_hw.export.quantization import QUANTIZED, sensitive_nodes
from spnas_hw.pipeline.shipped import in_precision
from spnas_hw.space.codec import decode
from spnas_hw.space.detector import Detector, DetectorType

from .comparing import parity

SIZE = (96, 160)
DETECTOR = Detector(
    ("pedestrian", "rider"),
    neck_channels=16,
    anchor_scales=(2.5,),
    proposals_per_level=60,
    proposals=40,
    finest_scale=14.0,
    roi_channels=32,
    nms_candidates=80,
    detections=30,
    score_threshold=0.01,
)
CASCADE = replace(DETECTOR, type="cascade_rcnn")
RETINANET = Detector(
    ("pedestrian", "rider"),
    neck_channels=16,
    anchor_scales=(2.5, 3.5),
    proposals_per_level=60,
    nms_candidates=240,
    detections=30,
    score_threshold=0.01,
    type="retinanet",
    head_convs=2,
)


def lively_detector(code: str, detector: Detector = DETECTOR) -> torch.nn.Module:
    """Random weights under which scores and boxes vary from place to place."""
    torch.manual_seed(0)
    model = build_model(decode(code), detector)
    model.init_weights()
    for name, parameter in model.named_parameters():
        if name.endswith(("bn2.weight", "bn3.weight")):
            parameter.data.uniform_(0.2, 0.6)
        elif "bbox_head" in name and "fc_reg" in name and detector.type == "cascade_rcnn":
            parameter.data.normal_(0, 0.2)  # its deltas are worth less
        elif any(word in name for word in ("rpn_cls", "rpn_reg", "fc_cls", "fc_reg")):
            parameter.data.normal_(0, 0.05)
    if detector.one_stage:
        torch.manual_seed(1)  # one under which both classes are found
        for name, parameter in model.bbox_head.named_parameters():
            if name.endswith("bias"):
                parameter.data.fill_(-3.0 if name == "retina_cls.bias" else 0.0)
            else:
                parameter.data.normal_(0, 0.05 if name.startswith("retina_reg") else 0.1)
    return model.eval()


def images(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.kron(rng.normal(size=(1, 3, 12, 20)), np.ones((8, 8))).astype(np.float32) for _ in range(count)
    ]


@pytest.fixture(scope="module", params=[DETECTOR, CASCADE, RETINANET], ids=lambda detector: detector.type)
def detector(request: pytest.FixtureRequest) -> Detector:
    return request.param


@pytest.fixture(scope="module")
def model(detector: Detector) -> torch.nn.Module:
    return lively_detector("b8_11-21-21-2", detector)


@pytest.fixture(scope="module")
def exported(model: torch.nn.Module, detector: Detector) -> onnx.ModelProto:
    return detector_onnx(model, detector, SIZE)


def run(model: onnx.ModelProto, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with backend_by_name("onnxruntime", threads=1) as backend:
        outputs = backend.load(model).run({"image": image})
    assert outputs["nms_converged"]
    real = outputs["labels"] >= 0
    return outputs["boxes"][real], outputs["scores"][real], outputs["labels"][real]


def test_the_exported_detector_agrees_with_mmdet(model, exported) -> None:
    found = parity(
        images(3),
        lambda image: detect(model, image),
        lambda image: run(exported, image),
        score_threshold=0.05,
    )
    assert found.detections > 20
    assert found.agreement == 1.0
    assert {int(label) for image in images(3) for label in detect(model, image)[2]} == {0, 1}


def test_onnx_runtime_computes_what_torch_does(model, detector, exported) -> None:
    """The very same network: rows in the same order, padding included."""
    whole = exportable(model, detector, SIZE)
    for image in images(2):
        with torch.no_grad():
            expected = [output.numpy() for output in whole(torch.from_numpy(image))]
        with backend_by_name("onnxruntime", threads=1) as backend:
            found = backend.load(exported).run({"image": image})
        for name, values in zip(OUTPUTS, expected, strict=True):
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-3)


@pytest.mark.parametrize("layer", ["retina_cls", "retina_reg", "cls_convs.0.conv", "reg_convs.1.conv"])
def test_a_changed_weight_of_a_one_stage_head_is_noticed(layer: str) -> None:
    other = lively_detector("b8_11-21-21-2", RETINANET)
    exported = detector_onnx(other, RETINANET, SIZE)
    other.bbox_head.get_submodule(layer).weight.data += 0.1
    found = parity(images(1), lambda i: detect(other, i), lambda i: run(exported, i), score_threshold=0.05)
    assert found.agreement is not None and found.agreement < 0.9


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("layer", ["fc_reg", "fc_cls"])
def test_a_changed_weight_is_noticed(detector, exported, stage: int, layer: str) -> None:
    """The comparison above can fail, whichever box head is to blame."""
    if stage >= len(detector.box_stages):
        pytest.skip("has no such box stage")
    other = lively_detector("b8_11-21-21-2", detector)
    heads = other.roi_head.bbox_head
    head = heads[stage] if detector.type == "cascade_rcnn" else heads
    weight = getattr(head, layer).weight.data
    weight[0] += 0.05 if layer == "fc_reg" else 0.01
    found = parity(images(1), lambda i: detect(other, i), lambda i: run(exported, i), score_threshold=0.05)
    assert found.agreement is not None and found.agreement < 0.9


def test_static_shapes_and_names(detector, exported) -> None:
    (image,) = exported.graph.input
    assert image.name == "image"
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 3, *SIZE]
    assert tuple(output.name for output in exported.graph.output) == OUTPUTS
    shapes = [[d.dim_value for d in o.type.tensor_type.shape.dim] for o in exported.graph.output]
    assert shapes == [[detector.detections, 4], [detector.detections], [detector.detections], []]
    operators = {node.op_type for node in exported.graph.node}
    assert not operators & {"NonMaxSuppression", "NonZero", "RoiAlign", "Loop", "If"}


def test_the_whole_detector_becomes_an_engine(exported) -> None:
    pytest.importorskip("tensorrt_rtx")
    engine = engine_from_onnx(exported, "8.6", "fp32")
    assert len(engine.content) > 10_000
    assert (engine.compute_capability, engine.scope) == ("8.6", "whole detector")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_find_nearly_the_same_and_become_an_engine(model, exported, precision: str) -> None:
    fewer = in_precision(exported, precision, lambda: iter(images(8)))
    onnx.checker.check_model(fewer, full_check=True)
    comparison = Comparison(0.05, CLOSE)
    for image in images(3):
        comparison.add(detect(model, image), run(fewer, image))
    found = comparison.parity()
    assert found.detections > 20 and (found.agreement or 0) > (0.98 if precision == "fp16" else 0.3)
    pytest.importorskip("tensorrt_rtx")
    assert engine_from_onnx(fewer, "8.9", precision).precision == precision


def test_int8_is_where_it_should_be(exported) -> None:
    """All layers with weights, but for the first and those that decide; scales per output channel."""
    found = in_precision(exported, "int8", lambda: iter(images(2))).graph
    makers = {output: node for node in found.node for output in node.output}
    constants = {tensor.name: tensor for tensor in found.initializer}
    plain = set(sensitive_nodes(exported))
    source = {tensor.name for tensor in exported.graph.initializer}
    layers = [n for n in exported.graph.node if n.op_type in QUANTIZED and n.input[1] in source]
    names = {n.input[1].split(".")[-2] for n in layers if n.name in plain}
    assert names == {"conv1", "cls", "reg"}
    for layer in layers:
        node = next(node for node in found.node if node.name == layer.name)
        kinds = [makers[name].op_type if name in makers else "" for name in node.input[:2]]
        assert ("DequantizeLinear" in kinds) == (layer.name not in plain)
        if layer.name not in plain:
            assert kinds == ["DequantizeLinear"] * 2
            scale, zero = (constants[name] for name in makers[node.input[1]].input[1:])
            weight = next(t for t in exported.graph.initializer if t.name == layer.input[1])
            assert max(scale.dims) in weight.dims and len(scale.dims) == 1
            assert not onnx.numpy_helper.to_array(zero).any()


def test_a_quantiser_without_images_is_one_line(exported) -> None:
    with pytest.raises(ExportError, match="there is none"):
        in_precision(exported, "int8", lambda: iter(()))


def test_an_unknown_compute_capability_is_one_line(exported) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(ExportError, match=r"'9.9'.*8\.6") as caught:
        engine_from_onnx(exported, "9.9", "fp32")
    assert "\n" not in str(caught.value)


def test_what_torch_cannot_export_is_one_line() -> None:
    class Dynamic(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(ExportError) as caught:
        onnx_from_module(Dynamic(), {"x": torch.zeros(2)}, ("y",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "candidates", "kind"),
    [(n, 20 * n, kind) for n in (1, 80) for kind in ("faster_rcnn", "cascade_rcnn", "retinanet")]
    + [(80, 20, "faster_rcnn")],
)
def test_any_number_of_classes(classes: int, candidates: int, kind: DetectorType) -> None:
    own = {"head_convs": 1} if kind == "retinanet" else {"proposals": 20, "roi_channels": 16}
    detector = Detector(
        tuple(f"class{i}" for i in range(classes)),
        neck_channels=8,
        proposals_per_level=30,
        nms_candidates=candidates,
        detections=10,
        score_threshold=0.001,
        type=kind,
        **own,
    )
    model = lively_detector("b8_1-2-1-1-1", detector)
    exported = detector_onnx(model, detector, (64, 96))
    found = parity(
        [image[:, :, :64, :96] for image in images(1)],
        lambda image: detect(model, image),
        lambda image: run(exported, image),
        score_threshold=0.0,
    )
    if candidates == 20 * classes:
        assert found.detections and found.agreement == 1.0
    else:  # more candidates pass than the NMS takes: the best of them still agree
        assert found.detections and found.matched
