"""Detectors with proposals and RoIs, Faster and Cascade R-CNN, ready to be exported."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor, nn

from spnas_hw.cost.workload import Size, halved
from spnas_hw.export.neck import TopDown
from spnas_hw.export.postprocess import decode_boxes, detections, proposals
from spnas_hw.export.roi_align import multilevel_roi_align
from spnas_hw.space.detector import Detector


class DenseHead(nn.Module):
    """The RPN and its proposals: `p_0 .. p_L` -> proposals [P, 4], converged []."""

    def __init__(self, rpn_head: nn.Module, detector: Detector, size: Size, levels: int) -> None:
        super().__init__()
        self.conv, self.cls, self.reg = rpn_head.rpn_conv, rpn_head.rpn_cls, rpn_head.rpn_reg
        self.detector, self.size = detector, size
        sizes = [halved(size, 2 + level) for level in range(levels)]
        for level, anchors in enumerate(rpn_head.prior_generator.grid_priors(sizes, device="cpu")):
            self.register_buffer(f"anchors{level}", anchors)
        self.levels = levels

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor]:
        hidden = [F.relu(self.conv(feature)) for feature in features]
        boxes, _, converged = proposals(
            [self.cls(x) for x in hidden],
            [self.reg(x) for x in hidden],
            [getattr(self, f"anchors{level}") for level in range(self.levels)],
            image_height=self.size[0],
            image_width=self.size[1],
            nms_pre=self.detector.proposals_per_level,
            max_proposals=self.detector.proposals,
            iou_threshold=self.detector.proposal_nms_iou,
        )
        return boxes, converged


class RoiHead(nn.Module):
    """RoIAlign and the two-layer box head: `p_0 .. p_{L-1}`, proposals -> logits [P, C+1], deltas [P, 4C]."""

    def __init__(self, bbox_head: nn.Module, detector: Detector) -> None:
        super().__init__()
        self.fcs, self.cls, self.reg = bbox_head.shared_fcs, bbox_head.fc_cls, bbox_head.fc_reg
        self.detector = detector

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *features, boxes = inputs
        d = self.detector
        x = multilevel_roi_align(
            features,
            [4 * 2**level for level in range(len(features))],
            boxes,
            d.roi_size,
            d.roi_sampling_ratio,
            d.finest_scale,
        ).flatten(1)
        for fc in self.fcs:
            x = F.relu(fc(x))
        return self.cls(x), self.reg(x)


class CascadeRoiHead(nn.Module):
    """RoI heads in a row: `p_0 .. p_{L-1}`, proposals -> logits [P, C+1], deltas [P, 4], RoIs [P, 4].

    Each head sees the boxes that the one before it refined; the last one's deltas and RoIs are returned. As
    in mmdet, the logits are averaged over the heads, not their probabilities.
    """

    def __init__(self, bbox_heads: Iterable[nn.Module], detector: Detector, size: Size) -> None:
        super().__init__()
        self.heads = nn.ModuleList(RoiHead(head, detector) for head in bbox_heads)
        self.detector, self.size = detector, size

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *features, rois = inputs
        summed, deltas = self.heads[0](*features, rois)
        for head, before in zip(self.heads[1:], self.detector.box_stages[:-1], strict=True):
            rois = decode_boxes(rois, deltas, before.delta_stds, *self.size)
            logits, deltas = head(*features, rois)
            summed = summed + logits
        return summed / len(self.heads), deltas, rois


def roi_head(model: nn.Module, detector: Detector, size: Size) -> RoiHead | CascadeRoiHead:
    """The RoI head of a detector with mmdet's attribute names."""
    if detector.type == "faster_rcnn":
        return RoiHead(model.roi_head.bbox_head, detector)
    return CascadeRoiHead(model.roi_head.bbox_head, detector, size)


class Postprocess(nn.Module):
    """Box decoding and class-wise NMS: boxes [D, 4], scores [D], labels [D], converged [].

    Its inputs are the proposals and whatever the RoI head returns.
    """

    def __init__(self, detector: Detector, size: Size) -> None:
        super().__init__()
        self.detector, self.size = detector, size

    def forward(
        self, boxes: Tensor, logits: Tensor, deltas: Tensor, rois: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        d = self.detector
        return detections(
            logits,
            deltas,
            boxes,
            rois,
            stds=d.box_stages[-1].delta_stds,
            image_height=self.size[0],
            image_width=self.size[1],
            score_threshold=d.score_threshold,
            iou_threshold=d.nms_iou,
            max_detections=d.detections,
            nms_candidates=d.nms_candidates,
        )


class TwoStageDetector(nn.Module):
    """The whole of it: image [1, 3, H, W], normalised RGB -> boxes [D, 4] in pixels of that image,
    scores [D], labels [D] (-1: padding), nms_converged [] (False: the NMS may differ from greedy)."""

    def __init__(self, model: nn.Module, detector: Detector, size: Size) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.lateral_convs = model.neck.lateral_convs
        self.top_down = TopDown(model.neck)
        self.dense_head = DenseHead(model.rpn_head, detector, size, len(self.lateral_convs) + 1)
        self.roi_head = roi_head(model, detector, size)
        self.postprocess = Postprocess(detector, size)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.backbone(image)
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        levels = self.top_down(*laterals)
        boxes, proposals_converged = self.dense_head(*levels)
        final, scores, labels, converged = self.postprocess(boxes, *self.roi_head(*levels[:-1], boxes))
        return final, scores, labels, converged & proposals_converged
