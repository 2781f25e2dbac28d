"""Static post-processing against mmcv and mmdet, a naive reference, ONNX Runtime and TensorRT-RTX."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
from spnas_hw.export.postprocess import (  # noqa: E402
    MAX_TOPK,
    decode_boxes,
    detections,
    greedy_keep,
    proposals,
    static_nms,
)
from spnas_hw.export.roi_align import multilevel_roi_align, roi_levels  # noqa: E402

HEIGHT, WIDTH = 192, 384
STRIDES = (4, 8, 16, 32, 64)
STDS = (0.1, 0.1, 0.2, 0.2)
Array = NDArray[np.float32]


def naive_keep(boxes: Array, iou_threshold: float) -> NDArray[np.bool_]:
    """Greedy suppression as a loop, boxes in order of score; float32, as the code under test."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = np.zeros(len(boxes), dtype=bool)
    for j, box in enumerate(boxes):
        others = boxes[:j][keep[:j]]
        sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
        intersection = np.clip(sides, 0, None).prod(axis=1, dtype=np.float32)
        union = area[:j][keep[:j]] + area[j] - intersection
        with np.errstate(invalid="ignore"):
            keep[j] = not np.any(intersection / union > np.float32(iou_threshold))
    return keep


def crowd(rng: np.random.Generator, number: int, centres: int, extent: float = 300.0) -> Array:
    """Boxes that overlap heavily around a few centres, [number, 4]."""
    centre = rng.uniform(0.2 * extent, 0.8 * extent, (centres, 2))[rng.integers(0, centres, number)]
    centre = centre + rng.normal(0, 0.02 * extent, centre.shape)
    size = rng.uniform(0.05 * extent, 0.3 * extent, (number, 2))
    return np.concatenate([centre - size / 2, centre + size / 2], axis=1).clip(0, extent).astype(np.float32)


def image_boxes(rng: np.random.Generator, number: int) -> Array:
    """Boxes of all sizes in the image, many touching its border, [number, 4]."""
    centre = rng.uniform(0, 1, (number, 2)) * (WIDTH, HEIGHT)
    size = np.exp(rng.uniform(np.log(4), np.log(2 * HEIGHT), (number, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return boxes.clip(0, (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32)


def assert_same_detections(actual: Sequence[Array], expected: Sequence[Array]) -> None:
    """Equal sets of (boxes, scores[, labels]), whatever the order among equal scores."""
    assert len(actual[0]) == len(expected[0])

    def ordered(found: Sequence[Array]) -> list[Array]:
        order = np.lexsort([*np.round(found[0], 2).T, np.round(found[1], 5)])
        return [values[order] for values in found]

    for index, (a, e) in enumerate(zip(ordered(actual), ordered(expected), strict=True)):
        np.testing.assert_allclose(a, e, rtol=0, atol=(1e-3, 1e-5, 0)[index])


# --- box decoding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), STDS])
def test_decode_boxes_equals_mmdet(stds: tuple[float, ...]) -> None:
    coders = pytest.importorskip("mmdet.models.task_modules.coders")
    rng = np.random.default_rng(0)
    boxes = torch.from_numpy(image_boxes(rng, 500))
    deltas = torch.from_numpy(rng.normal(0, 3, (500, 4)).astype(np.float32))
    expected = coders.DeltaXYWHBBoxCoder(target_stds=stds).decode(boxes, deltas, max_shape=(HEIGHT, WIDTH))
    actual = decode_boxes(boxes, deltas, stds, HEIGHT, WIDTH)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_decode_boxes_clamps_and_limits_growth() -> None:
    boxes = torch.tensor([[10.0, 10.0, 12.0, 14.0]])
    grown = decode_boxes(boxes, torch.tensor([[0.0, 0.0, 50.0, 50.0]]), (1.0,) * 4, 100, 60)
    assert grown.tolist() == [[0.0, 0.0, 60.0, 100.0]]
    small = decode_boxes(boxes, torch.tensor([[0.0, 0.0, 0.0, 50.0]]), (1.0,) * 4, 10_000, 60, 1 / 2)
    torch.testing.assert_close(small, torch.tensor([[10.0, 8.0, 12.0, 16.0]]))


def test_half_precision_inputs_are_decoded_in_float32() -> None:
    boxes = torch.tensor([[1001.3, 10.1, 1900.7, 500.9]])
    decoded = decode_boxes(boxes, torch.zeros(1, 4, dtype=torch.float16), STDS, 1024, 1920)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, boxes)


# --- suppression ----------------------------------------------------------------------------------------

grid_box = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda c: (min(c[::2]), min(c[1::2]), max(c[::2]), max(c[1::2]))
)


@settings(max_examples=150, deadline=None)
@given(
    found=st.lists(st.tuples(grid_box, st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=1, max_size=40),
    iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    iterations=st.sampled_from([2, 4, 16, 40]),
)
def test_static_nms_is_greedy_exactly_when_it_says_so(
    found: list[tuple[tuple[int, ...], float]], iou_threshold: float, iterations: int
) -> None:
    """Degenerate and identical boxes, overlaps exactly at the threshold and equal scores included."""
    boxes = np.array([box for box, _ in found], dtype=np.float32)
    scores = np.array([score for _, score in found], dtype=np.float32)
    order, keep, converged = static_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), iou_threshold, iterations=iterations
    )
    assert sorted(order.tolist()) == list(range(len(boxes)))
    assert (np.diff(scores[order.numpy()]) <= 0).all()
    expected = naive_keep(boxes[order.numpy()], iou_threshold)
    assert bool(converged) == bool((keep.numpy() == expected).all())
    assert (keep.numpy() >= expected).all(), "an even number of iterations never loses a box"
    assert bool(converged) or iterations < len(boxes)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_overlapping_boxes_equal_mmcv(seed: int) -> None:
    ops = pytest.importorskip("mmcv.ops")
    rng = np.random.default_rng(seed)
    boxes = torch.from_numpy(crowd(rng, 1000, centres=15))
    scores = torch.from_numpy(rng.permutation(1000).astype(np.float32) / 1000)
    order, keep, converged = static_nms(boxes, scores, 0.6)
    _, expected = ops.nms(boxes, scores, 0.6)
    assert bool(converged)
    assert order[keep].tolist() == expected.tolist()
    assert 15 < len(expected) < 900


def test_groups_equal_mmcv_batched_nms() -> None:
    ops = pytest.importorskip("mmcv.ops")
    rng = np.random.default_rng(1)
    boxes = torch.from_numpy(crowd(rng, 600, centres=5))
    scores = torch.from_numpy(rng.permutation(600).astype(np.float32) / 600)
    groups = torch.from_numpy(rng.integers(0, 7, 600))
    order, keep, converged = static_nms(boxes, scores, 0.5, groups=groups)
    _, expected = ops.batched_nms(boxes, scores, groups, {"type": "nms", "iou_threshold": 0.5})
    assert bool(converged)
    assert order[keep].tolist() == expected.tolist()
    assert len(expected) > int(static_nms(boxes, scores, 0.5)[1].sum())


def test_only_the_best_candidates_enter() -> None:
    boxes = torch.from_numpy(crowd(np.random.default_rng(2), 50, centres=2))
    scores = torch.linspace(0, 1, 50)
    order, keep, _ = static_nms(boxes, scores, 0.5, candidates=20)
    assert order.tolist() == list(range(49, 29, -1))
    assert keep.tolist() == naive_keep(boxes.numpy()[order.numpy()], 0.5).tolist()


@pytest.mark.parametrize("length", [3, 17, 18, 100])
def test_the_flag_tells_the_truth_about_chains(length: int) -> None:
    """Each box overlaps its neighbours only: every link of the chain takes one iteration."""
    left = torch.arange(length, dtype=torch.float32) * 5
    boxes = torch.stack([left, torch.zeros(length), left + 10, torch.full((length,), 10.0)], dim=1)
    expected = [index % 2 == 0 for index in range(length)]
    keep, converged = greedy_keep(boxes, 0.3, iterations=16)
    assert bool(converged) == (keep.tolist() == expected) == (length <= 17)
    keep, converged = greedy_keep(boxes, 0.3, iterations=length)
    assert bool(converged) and keep.tolist() == expected


def test_sets_of_boxes_do_not_touch_each_other() -> None:
    boxes = torch.from_numpy(crowd(np.random.default_rng(3), 90, centres=3)).reshape(3, 30, 4)
    keep, _ = greedy_keep(boxes, 0.4)
    assert keep.tolist() == [naive_keep(one.numpy(), 0.4).tolist() for one in boxes]


# --- RoIAlign -------------------------------------------------------------------------------------------


def pyramid(rng: np.random.Generator, channels: int, levels: int = 4) -> list[torch.Tensor]:
    shapes = [(1, channels, HEIGHT // stride, WIDTH // stride) for stride in STRIDES[:levels]]
    return [torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def special_rois() -> Array:
    """The whole image, corners, borders, slivers, tiny and empty RoIs, padding, sizes at level borders."""
    return np.array(
        [
            [0, 0, WIDTH, HEIGHT],
            [0, 0, 1, 1],
            [WIDTH - 1, HEIGHT - 1, WIDTH, HEIGHT],
            [0, 100, WIDTH, 101],
            [200.5, 0, 201, HEIGHT],
            [50.25, 60.75, 50.26, 60.76],
            [WIDTH, HEIGHT, WIDTH, HEIGHT],
            [0, 0, 0, 0],
            [10, 10, 122, 122],
            [10, 10, 121.9, 122],
        ],
        dtype=np.float32,
    )


@pytest.mark.parametrize("sampling_ratio", [1, 2, 3])
def test_roi_align_equals_mmdet(sampling_ratio: int) -> None:
    extractors = pytest.importorskip("mmdet.models.roi_heads.roi_extractors")
    rng = np.random.default_rng(0)
    features = pyramid(rng, channels=6)
    rois = torch.from_numpy(np.concatenate([special_rois(), image_boxes(rng, 60)]))
    layer = {"type": "RoIAlign", "output_size": 7, "sampling_ratio": sampling_ratio}
    extractor = extractors.SingleRoIExtractor(layer, out_channels=6, featmap_strides=STRIDES[:4])
    expected = extractor(features, torch.cat([torch.zeros(len(rois), 1), rois], dim=1))
    actual = multilevel_roi_align(features, STRIDES[:4], rois, sampling_ratio=sampling_ratio)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_roi_levels_follow_the_rule_of_fpn() -> None:
    sides = np.array([0.0, 1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0], dtype=np.float32)
    rois = torch.from_numpy(np.stack([0 * sides, 0 * sides, sides, sides], axis=1))
    assert roi_levels(rois, 4).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert roi_levels(rois, 1).tolist() == [0] * 9


def test_a_constant_map_pools_to_its_constant_in_its_own_type() -> None:
    features = [torch.full((1, 2, 8, 8), 3.0 + level, dtype=torch.float16) for level in range(2)]
    pooled = multilevel_roi_align(
        features, (8, 16), torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 64.0, 512.0]])
    )
    assert pooled.dtype == torch.float16
    assert pooled.shape == (2, 2, 7, 7)
    assert torch.unique(pooled[0]).tolist() == [3.0] and torch.unique(pooled[1]).tolist() == [4.0]


def test_roi_align_wants_one_stride_per_map() -> None:
    with pytest.raises(ValueError, match="2 feature maps but 1 strides"):
        multilevel_roi_align([torch.zeros(1, 1, 2, 2)] * 2, (4,), torch.zeros(1, 4))


# --- proposals and detections -----------------------------------------------------------------------------


def anchors_of_levels(scale: float = 8.0) -> list[torch.Tensor]:
    """Three anchors per cell in the order rows, columns, anchors (heights to widths 1:2, 1:1, 2:1)."""
    levels = []
    for stride in STRIDES:
        y, x = np.meshgrid(
            np.arange(HEIGHT // stride) * stride, np.arange(WIDTH // stride) * stride, indexing="ij"
        )
        ratio = np.sqrt(np.array([0.5, 1.0, 2.0]))
        half = np.stack([scale * stride / ratio / 2, scale * stride * ratio / 2], axis=1)
        centre = np.stack([x, y], axis=-1)[:, :, None]
        boxes = np.concatenate([centre - half, centre + half], axis=-1).reshape(-1, 4)
        levels.append(torch.from_numpy(boxes.astype(np.float32)))
    return levels


def rpn_outputs(rng: np.random.Generator) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    shapes = [(HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
    scores = [rng.normal(-4, 2, (1, 3, *shape)).astype(np.float32) for shape in shapes]
    deltas = [rng.normal(0, 0.3, (1, 12, *shape)).astype(np.float32) for shape in shapes]
    return [torch.from_numpy(s) for s in scores], [torch.from_numpy(d) for d in deltas]


@pytest.mark.parametrize(
    ("nms_pre", "max_proposals", "min_box_size"), [(300, 100, 0.0), (1000, 500, 8.0), (20, 100, 0.0)]
)
def test_proposals_equal_mmdet(nms_pre: int, max_proposals: int, min_box_size: float) -> None:
    heads = pytest.importorskip("mmdet.models.dense_heads")
    from mmengine.config import ConfigDict

    scores, deltas = rpn_outputs(np.random.default_rng(nms_pre))
    generator = {
        "type": "AnchorGenerator",
        "scales": [8],
        "ratios": [0.5, 1.0, 2.0],
        "strides": list(STRIDES),
    }
    head = heads.RPNHead(
        in_channels=4,
        anchor_generator=generator,
        bbox_coder={"type": "DeltaXYWHBBoxCoder"},
        loss_cls={"type": "CrossEntropyLoss", "use_sigmoid": True},
        loss_bbox={"type": "L1Loss"},
    )
    cfg = ConfigDict(
        nms_pre=nms_pre,
        max_per_img=max_proposals,
        nms={"type": "nms", "iou_threshold": 0.7},
        min_bbox_size=min_box_size,
    )
    (expected,) = head.predict_by_feat(
        scores, deltas, batch_img_metas=[{"img_shape": (HEIGHT, WIDTH)}], cfg=cfg
    )
    anchors = head.prior_generator.grid_priors([s.shape[-2:] for s in scores], device="cpu")
    boxes, found_scores, converged = proposals(
        scores,
        deltas,
        anchors,
        image_height=HEIGHT,
        image_width=WIDTH,
        nms_pre=nms_pre,
        max_proposals=max_proposals,
        min_box_size=min_box_size,
    )
    number = len(expected.bboxes)
    assert bool(converged)
    assert boxes.shape == (max_proposals, 4)
    assert_same_detections(
        (boxes[:number].numpy(), found_scores[:number].numpy()),
        (expected.bboxes.numpy(), expected.scores.numpy()),
    )
    assert not boxes[number:].any() and not found_scores[number:].any()
    assert (number < max_proposals) == (nms_pre == 20)


def box_head_outputs(
    rng: np.random.Generator, rows: int, classes: int, deltas_per_roi: int
) -> tuple[torch.Tensor, ...]:
    """Clustered proposals with confident, mostly background predictions."""
    boxes = torch.from_numpy(crowd(rng, rows, centres=12, extent=float(HEIGHT)))
    logits = torch.from_numpy(rng.normal(0, 1.5, (rows, classes + 1)).astype(np.float32))
    logits[:, -1] += 1.0
    logits[rows // 2 :, -1] += 9.0
    deltas = torch.from_numpy(rng.normal(0, 0.5, (rows, deltas_per_roi)).astype(np.float32))
    return logits, deltas, boxes


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize(("classes", "padding"), [(1, 0), (2, 30), (8, 0)])
def test_detections_equal_mmdet(classes: int, padding: int, cascade: bool) -> None:
    """Of a Faster R-CNN, and of a cascade: one box per RoI, and RoIs other than the proposals."""
    heads = pytest.importorskip("mmdet.models.roi_heads.bbox_heads")
    from mmengine.config import ConfigDict

    per_roi = 4 if cascade else 4 * classes
    logits, deltas, boxes = box_head_outputs(np.random.default_rng(classes), 200, classes, per_roi)
    stds = (0.033, 0.033, 0.067, 0.067) if cascade else STDS
    rois = boxes
    if cascade:
        rois = (boxes + 3.0).clamp(max=float(HEIGHT))
        rois[:5, 0] = rois[:5, 2] = 0.0  # refined to beyond the border: no area, and yet detections
        logits[:5, 0] = 9.0
    head = heads.Shared2FCBBoxHead(
        in_channels=1,
        roi_feat_size=1,
        num_classes=classes,
        bbox_coder={"type": "DeltaXYWHBBoxCoder", "target_stds": stds},
        reg_class_agnostic=cascade,
    )
    cfg = ConfigDict(score_thr=0.05, nms={"type": "nms", "iou_threshold": 0.5}, max_per_img=100)
    (expected,) = head.predict_by_feat(
        (torch.cat([torch.zeros(len(rois), 1), rois], dim=1),),
        (logits,),
        (deltas,),
        [{"img_shape": (HEIGHT, WIDTH)}],
        rcnn_test_cfg=cfg,
    )
    # padding proposals must not show, however sure the head is about them
    logits = torch.cat([logits, torch.full((padding, classes + 1), 0.0)])
    logits[len(boxes) :, 0] = 20.0
    deltas = torch.cat([deltas, torch.ones(padding, per_roi)])
    boxes, rois = (torch.cat([values, torch.zeros(padding, 4)]) for values in (boxes, rois))
    found, scores, labels, converged = detections(
        logits,
        deltas,
        boxes,
        rois if cascade else None,
        stds=stds,
        image_height=HEIGHT,
        image_width=WIDTH,
        nms_candidates=1600 if classes == 8 else 150,
    )
    number = len(expected.bboxes)
    assert bool(converged) and labels.dtype == torch.int64
    assert_same_detections(
        [values[:number].numpy() for values in (found, scores, labels)],
        [expected.bboxes.numpy(), expected.scores.numpy(), expected.labels.numpy()],
    )
    assert (number < 100) == (classes < 8)
    assert (labels[number:] == -1).all()
    assert not scores[number:].any() and not found[number:].any()


def test_no_detection_at_all() -> None:
    logits, boxes = (
        torch.tensor([[0.0, 9.0]]).repeat(50, 1),
        torch.tensor([[1.0, 1.0, 5.0, 5.0]]).repeat(50, 1),
    )
    found, scores, labels, converged = detections(
        logits, torch.zeros(50, 4), boxes, stds=STDS, image_height=8, image_width=8, max_detections=5
    )
    assert bool(converged) and not found.any() and not scores.any() and labels.tolist() == [-1] * 5


def test_sizes_out_of_range_are_refused() -> None:
    boxes, size = torch.rand(30, 4), {"image_height": 8, "image_width": 8}
    with pytest.raises(ValueError, match=f"candidates is {MAX_TOPK + 1}: use 1 to {MAX_TOPK}"):
        static_nms(boxes, boxes[:, 0], 0.5, candidates=MAX_TOPK + 1)
    with pytest.raises(ValueError, match="max_detections is 31, but only 30 candidates"):
        detections(torch.zeros(30, 2), boxes, boxes, stds=STDS, max_detections=31, **size)
    with pytest.raises(ValueError, match="score_threshold is -1"):
        detections(torch.zeros(30, 2), boxes, boxes, stds=STDS, score_threshold=-1.0, **size)
    with pytest.raises(ValueError, match=r"\[P, 4 \* C\]"):
        detections(torch.zeros(30, 4), torch.zeros(30, 8), boxes, stds=STDS, **size)
    with pytest.raises(ValueError, match=r"rois \(29, 4\)"):
        detections(torch.zeros(30, 3), boxes, boxes, boxes[1:], stds=STDS, **size)
    scores, deltas = rpn_outputs(np.random.default_rng(0))
    with pytest.raises(ValueError, match="5 cls_scores, 5 bbox_preds, 4 anchors"):
        proposals(scores, deltas, anchors_of_levels()[:4], **size)


# --- export -----------------------------------------------------------------------------------------------


class TwoStages(torch.nn.Module):
    """Everything between the convolutions and the final boxes, over inputs instead of convolutions."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.cls = torch.nn.Parameter(torch.randn(channels * 49, classes + 1, generator=generator) * 0.2)
        self.reg = torch.nn.Parameter(torch.randn(channels * 49, 4 * classes, generator=generator) * 0.1)
        for level, anchors in enumerate(anchors_of_levels()):
            self.register_buffer(f"anchors{level}", anchors)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        anchors = [getattr(self, f"anchors{level}") for level in range(5)]
        size = {"image_height": HEIGHT, "image_width": WIDTH}
        boxes, _, first = proposals(inputs[:5], inputs[5:10], anchors, nms_pre=100, max_proposals=50, **size)
        pooled = multilevel_roi_align(inputs[10:], STRIDES[:4], boxes).flatten(1)
        last = detections(
            pooled @ self.cls,
            pooled @ self.reg,
            boxes,
            stds=STDS,
            max_detections=20,
            nms_candidates=80,
            **size,
        )
        return boxes, *last[:3], first & last[3]


OUTPUTS = ["proposals", "boxes", "scores", "labels", "converged"]


@pytest.fixture(scope="module")
def exported() -> tuple[bytes, dict[str, Array], list[Array]]:
    """ONNX bytes, inputs, and what torch computes from them."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    rng = np.random.default_rng(5)
    scores, deltas = rpn_outputs(rng)
    inputs = [*scores, *deltas, *pyramid(rng, channels=4)]
    names = [f"{kind}{level}" for kind, levels in (("s", 5), ("d", 5), ("p", 4)) for level in range(levels)]
    module = TwoStages(channels=4, classes=2).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(
            module,
            tuple(inputs),
            dynamo=True,
            opset_version=18,
            input_names=names,
            output_names=OUTPUTS,
            verbose=False,
        ).model_proto
        expected = [output.numpy() for output in module(*inputs)]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(), dict(zip(names, (i.numpy() for i in inputs), strict=True)), expected


def test_export_has_static_shapes_and_portable_operators(exported: tuple[bytes, object, object]) -> None:
    import onnx

    graph = onnx.load_model_from_string(exported[0]).graph
    refused = {
        "NonMaxSuppression",
        "NonZero",
        "RoiAlign",
        "Loop",
        "If",
        "Scan",
        "Compress",
        "Unique",
        "ScatterND",
    }
    assert not refused & {node.op_type for node in graph.node}
    shapes = {o.name: [d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}
    assert shapes == {"proposals": [50, 4], "boxes": [20, 4], "scores": [20], "labels": [20], "converged": []}


def test_onnx_runtime_computes_what_torch_does(exported: tuple[bytes, dict[str, Array], list[Array]]) -> None:
    ort = pytest.importorskip("onnxruntime")
    model, inputs, expected = exported
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    actual = dict(zip(OUTPUTS, session.run(OUTPUTS, inputs), strict=True))
    wanted = dict(zip(OUTPUTS, expected, strict=True))
    assert actual["labels"].dtype == np.int64 and actual["converged"] and wanted["converged"]
    assert (wanted["scores"] > 0).sum() > 5
    ones = np.ones(50, dtype=np.float32)
    assert_same_detections((actual["proposals"], ones), (wanted["proposals"], ones))
    names = ("boxes", "scores", "labels")
    assert_same_detections([actual[n] for n in names], [wanted[n] for n in names])


@pytest.mark.parametrize("compute_capability", ["8.6", "8.9"])
def test_tensorrt_rtx_builds_it(exported: tuple[bytes, object, object], compute_capability: str) -> None:
    pytest.importorskip("tensorrt_rtx")
    from profilers.backends.rtx import build_engine

    assert len(build_engine(exported[0], compute_capability=compute_capability)) > 100_000


def test_tensorrt_rtx_builds_half_precision_features() -> None:
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnxscript")
    from profilers.backends.rtx import build_engine

    class Pooling(torch.nn.Module):
        def forward(self, rois: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
            return multilevel_roi_align(features, STRIDES[:2], rois)

    features = [feature.half() for feature in pyramid(np.random.default_rng(0), channels=8, levels=2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(
            Pooling(), (torch.zeros(10, 4), *features), dynamo=True, opset_version=18, verbose=False
        ).model_proto
    assert build_engine(model.SerializeToString(), compute_capability="8.9")
