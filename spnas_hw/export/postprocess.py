"""Box decoding, non-maximum suppression, proposals and detections with static shapes.

The steps of a two-stage detector that mmdet computes with data-dependent shapes, written so that one ONNX
file runs in every runtime: no NonMaxSuppression (TensorRT-RTX cannot build it, TensorRT gives it a dynamic
shape), no NonZero, boolean indexing or control flow on data, TopK of at most `MAX_TOPK`. All arithmetic is
float32 whatever the precision of the network. Results equal those of mmdet's `RPNHead` and `BBoxHead`
(test-time configuration) as long as the returned `converged` is true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_TOPK = 3840
"""Largest K of the TopK operator in TensorRT and TensorRT-RTX."""

NMS_ITERATIONS = 32
"""Six suffice for noisy objectness maps; very smooth ones, as of an untrained network, need up to 30.

Even, so that duplicates survive, but no object is lost, should it not converge (see `greedy_keep`).
"""

_SMALLEST_UNION = 1e-30  # keeps 0 / 0 out of the IoU of empty boxes; they then suppress nothing, as in mmcv


def decode_boxes(
    boxes: Tensor,
    deltas: Tensor,
    stds: Sequence[float],
    image_height: int,
    image_width: int,
    wh_ratio_clip: float = 16 / 1000,
) -> Tensor:
    """Boxes from anchors (or RoIs) and regression deltas, clamped to the image.

    The parametrisation of R-CNN (CVPR 2014, appendix C), as mmdet's `DeltaXYWHBBoxCoder` with zero means.

    Args:
        boxes: [..., 4] x0, y0, x1, y1 in pixels.
        deltas: [..., 4] dx, dy, dw, dh, before multiplication with `stds`.
        stds: the four standard deviations of the coder.
        image_height: pixels; boxes are clamped to 0 .. image_height.
        image_width: pixels; boxes are clamped to 0 .. image_width.
        wh_ratio_clip: widths and heights change at most by this factor or its inverse.

    Returns:
        [..., 4] float32.
    """
    boxes, deltas = boxes.float(), deltas.float() * torch.tensor(tuple(stds), device=deltas.device)
    centre = (boxes[..., :2] + boxes[..., 2:]) * 0.5
    size = boxes[..., 2:] - boxes[..., :2]
    limit = abs(math.log(wh_ratio_clip))
    new_centre = centre + size * deltas[..., :2]
    half_size = size * deltas[..., 2:].clamp(min=-limit, max=limit).exp() * 0.5
    limits = torch.tensor((float(image_width), float(image_height)), device=deltas.device)
    corners = (new_centre - half_size, new_centre + half_size)
    return torch.cat([torch.minimum(corner.clamp(min=0.0), limits) for corner in corners], dim=-1)


def greedy_keep(
    boxes: Tensor, iou_threshold: float, iterations: int = NMS_ITERATIONS
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression of boxes that are already in order of score, as a fixpoint.

    A box is kept when no kept box before it overlaps it by more than the threshold. That equation has one
    solution, the greedy one; it is iterated from "all kept". Each iteration settles one more link of the
    longest chain of suppressions. Even iterates keep a superset of the solution, odd ones a subset.

    Args:
        boxes: [..., K, 4] float32, best score first; suppression acts within the last K only.
        iou_threshold: a box is suppressed when its IoU is greater than this.
        iterations: fixed number of iterations.

    Returns:
        keep [..., K] bool, and converged [] bool: true exactly when `keep` is the greedy solution.
    """
    x0, y0, x1, y1 = boxes.float().unbind(-1)
    area = (x1 - x0) * (y1 - y0)
    intersection = _overlaps(x0, x1) * _overlaps(y0, y1)
    union = area[..., :, None] + area[..., None, :] - intersection
    rank = torch.arange(boxes.shape[-2], device=boxes.device)
    suppresses = (intersection / union.clamp(min=_SMALLEST_UNION) > iou_threshold) & (rank[:, None] < rank)
    links = suppresses.to(torch.float32)

    def next_keep(keep: Tensor) -> Tensor:
        return (torch.matmul(keep, links) < 0.5).to(torch.float32)

    keep = torch.ones_like(area)[..., None, :]
    for _ in range(iterations):
        keep = next_keep(keep)
    changed = (next_keep(keep) - keep).abs().sum()
    return keep[..., 0, :] > 0.5, changed < 0.5


def static_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    groups: Tensor | None = None,
    candidates: int = 1000,
    iterations: int = NMS_ITERATIONS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy non-maximum suppression among the best `candidates` boxes, as mmcv's `nms` and `batched_nms`.

    Args:
        boxes: [N, 4] x0, y0, x1, y1, not negative.
        scores: [N].
        iou_threshold: a box is suppressed when its IoU with a kept, better one is greater than this.
        groups: [N] integers; boxes of different groups (classes) do not suppress each other.
        candidates: boxes below that rank are dropped; at most `MAX_TOPK`.
        iterations: see `greedy_keep`.

    Returns:
        order [K] int64: the candidates, best first, K = min(candidates, N);
        keep [K] bool, in that order; converged [] bool.

    Raises:
        ValueError: more candidates than `MAX_TOPK`.
    """
    order = torch.topk(scores.float(), topk_size("candidates", candidates, scores.shape[0])).indices
    ranked = boxes.float().index_select(0, order)
    if groups is not None:
        ranked = _apart(ranked, groups.index_select(0, order))
    keep, converged = greedy_keep(ranked, iou_threshold, iterations)
    return order, keep, converged


def proposals(
    cls_scores: Sequence[Tensor],
    bbox_preds: Sequence[Tensor],
    anchors: Sequence[Tensor],
    *,
    image_height: int,
    image_width: int,
    nms_pre: int = 1000,
    max_proposals: int = 1000,
    iou_threshold: float = 0.7,
    min_box_size: float = 0.0,
    stds: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    iterations: int = NMS_ITERATIONS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Region proposals from the outputs of an RPN head, as mmdet's `RPNHead` predicts them.

    Args:
        cls_scores: objectness logits, one [1, A, H_l, W_l] per level.
        bbox_preds: deltas, one [1, 4 * A, H_l, W_l] per level.
        anchors: one constant [H_l * W_l * A, 4] per level, in mmdet's order (rows, columns, anchors).
        image_height: pixels.
        image_width: pixels.
        nms_pre: the best of each level that enter suppression; at most `MAX_TOPK`.
        max_proposals: P; at most `MAX_TOPK` and at most what the levels offer together.
        iou_threshold: of the suppression, which acts within each level.
        min_box_size: proposals not wider and higher than this are dropped (mmdet's `min_bbox_size`).
        stds: of the box coder.
        iterations: see `greedy_keep`.

    Returns:
        proposals [P, 4] float32, best first; scores [P]; converged [] bool.
        Where fewer than P were kept, the rest are zero boxes with score 0: their RoI features are those of
        the image corner, and `detections` drops every proposal without area.

    Raises:
        ValueError: the sequences differ in length, or a size is out of range.
    """
    if not cls_scores or not len(cls_scores) == len(bbox_preds) == len(anchors):
        raise ValueError(
            f"{len(cls_scores)} cls_scores, {len(bbox_preds)} bbox_preds, {len(anchors)} anchors: not equal"
        )
    longest = topk_size("nms_pre", nms_pre, max(level.shape[0] for level in anchors))
    level_boxes, level_scores = [], []
    for cls_score, bbox_pred, level_anchors in zip(cls_scores, bbox_preds, anchors, strict=True):
        scores = cls_score.float()[0].permute(1, 2, 0).reshape(-1).sigmoid()
        deltas = bbox_pred[0].permute(1, 2, 0).reshape(-1, 4)
        best = torch.topk(scores, min(nms_pre, scores.shape[0]))
        boxes = decode_boxes(
            level_anchors.index_select(0, best.indices),
            deltas.index_select(0, best.indices),
            stds,
            image_height,
            image_width,
        )
        large = ((boxes[:, 2:] - boxes[:, :2]) > min_box_size).all(dim=1)
        padding = longest - best.values.shape[0]
        # dropped and padding boxes: empty, so they suppress nothing, and worse than any score
        level_boxes.append(F.pad(torch.where(large[:, None], boxes, 0.0), (0, 0, 0, padding)))
        level_scores.append(F.pad(torch.where(large, best.values, -1.0), (0, padding), value=-1.0))
    # one row per level: levels never meet, and no offset between them costs precision
    boxes, scores = torch.stack(level_boxes), torch.stack(level_scores)
    keep, converged = greedy_keep(boxes, iou_threshold, iterations)
    kept_scores = torch.where(keep, scores, -1.0).reshape(-1)
    best = torch.topk(kept_scores, _exact_topk("max_proposals", max_proposals, kept_scores.shape[0]))
    real = best.values >= 0.0
    chosen = torch.where(real[:, None], boxes.reshape(-1, 4).index_select(0, best.indices), 0.0)
    return chosen, best.values.clamp(min=0.0), converged


def detections(
    cls_logits: Tensor,
    bbox_deltas: Tensor,
    proposals: Tensor,
    rois: Tensor | None = None,
    *,
    stds: Sequence[float],
    image_height: int,
    image_width: int,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
    nms_candidates: int = 1000,
    iterations: int = NMS_ITERATIONS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Final boxes from the outputs of a box head, as mmdet's `BBoxHead` and `multiclass_nms` predict them.

    Equal to them unless more than `nms_candidates` pairs of proposal and class pass the score threshold.

    Args:
        cls_logits: [P, C + 1], background last.
        bbox_deltas: [P, 4 * C], or [P, 4] where a RoI has one box whatever its class.
        proposals: [P, 4]; those without area are padding and are dropped.
        rois: [P, 4], what the deltas move: the proposals (None), or what a cascade made of them. One
            without area is no padding: it was refined to beyond the border, and mmdet keeps it, too.
        stds: of the box coder.
        image_height: pixels.
        image_width: pixels.
        score_threshold: pairs of proposal and class at or below it are dropped; not negative.
        iou_threshold: of the class-wise suppression.
        max_detections: D; at most `nms_candidates`.
        nms_candidates: pairs that enter suppression, best first; at most `MAX_TOPK`.
        iterations: see `greedy_keep`.

    Returns:
        boxes [D, 4] float32 in pixels, best first; scores [D] float32; labels [D] int64; converged [] bool.
        Rows after the last detection have a zero box, score 0 and label -1.

    Raises:
        ValueError: the shapes do not belong together, or a size is out of range.
    """
    rows, classes = cls_logits.shape[0], cls_logits.shape[1] - 1
    rois = proposals if rois is None else rois
    class_agnostic = bbox_deltas.shape[1] == 4
    shapes = [tuple(tensor.shape) for tensor in (bbox_deltas, proposals, rois)]
    if shapes != [(rows, 4 if class_agnostic else 4 * classes), (rows, 4), (rows, 4)]:
        raise ValueError(
            f"cls_logits {tuple(cls_logits.shape)}, bbox_deltas {shapes[0]}, proposals {shapes[1]} and rois "
            f"{shapes[2]}: [P, C + 1], [P, 4 * C] or [P, 4], [P, 4] and [P, 4] are needed"
        )
    if score_threshold < 0:
        raise ValueError(f"score_threshold is {score_threshold}: score 0 marks padding, so use 0 or more")
    has_area = (proposals[:, 2:] > proposals[:, :2]).all(dim=1)
    all_scores = cls_logits.float().softmax(dim=1)[:, :classes] * has_area[:, None].to(torch.float32)
    scores, pair, row, labels = best_pairs(all_scores, nms_candidates, "nms_candidates")
    deltas = bbox_deltas.reshape(-1, 4).index_select(0, row if class_agnostic else pair)
    boxes = decode_boxes(rois.index_select(0, row), deltas, stds, image_height, image_width)
    return suppressed(
        boxes,
        scores,
        labels,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
        iterations=iterations,
    )


def best_pairs(scores: Tensor, wanted: int, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The best pairs of box and class of scores [N, C], best first, K each: their scores, indices into the
    N * C pairs, rows and labels.

    K is `wanted`, or all pairs where there are fewer; `name` names it in a ValueError: over `MAX_TOPK`.
    """
    rows, classes = scores.shape
    best = torch.topk(scores.reshape(-1), topk_size(name, wanted, rows * classes))
    # tables instead of integer division
    row = torch.arange(rows, device=scores.device).repeat_interleave(classes).index_select(0, best.indices)
    labels = torch.arange(classes, device=scores.device).repeat(rows).index_select(0, best.indices)
    return best.values, best.indices, row, labels


def suppressed(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_detections: int,
    iterations: int = NMS_ITERATIONS,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The final detections among boxes [K, 4], scores [K], labels [K], best first; returns what `detections`
    does."""
    passes = scores > score_threshold
    boxes = torch.where(passes[:, None], boxes, 0.0)
    keep, converged = greedy_keep(_apart(boxes, labels), iou_threshold, iterations)
    kept_scores = torch.where(keep & passes, scores, 0.0)
    final = torch.topk(kept_scores, _exact_topk("max_detections", max_detections, kept_scores.shape[0]))
    real = final.values > 0.0
    final_boxes = torch.where(real[:, None], boxes.index_select(0, final.indices), 0.0)
    return final_boxes, final.values, torch.where(real, labels.index_select(0, final.indices), -1), converged


def _overlaps(low: Tensor, high: Tensor) -> Tensor:
    """Common length of all pairs of intervals: two [..., K] -> [..., K, K]."""
    upper = torch.minimum(high[..., :, None], high[..., None, :])
    lower = torch.maximum(low[..., :, None], low[..., None, :])
    return (upper - lower).clamp(min=0.0)


def _apart(boxes: Tensor, groups: Tensor) -> Tensor:
    """Boxes shifted so that those of different groups cannot overlap; mmcv rounds the same way."""
    return boxes + (groups.to(torch.float32) * (boxes.max() + 1.0))[..., None]


def topk_size(name: str, wanted: int, available: int) -> int:
    if not 1 <= wanted <= MAX_TOPK:
        raise ValueError(f"{name} is {wanted}: use 1 to {MAX_TOPK}, the largest TopK that TensorRT builds")
    return min(wanted, available)


def _exact_topk(name: str, wanted: int, available: int) -> int:
    if topk_size(name, wanted, available) < wanted:
        raise ValueError(
            f"{name} is {wanted}, but only {available} candidates exist: ask for {available} or fewer"
        )
    return wanted
