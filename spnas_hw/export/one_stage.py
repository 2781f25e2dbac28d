"""A detector without proposals, RetinaNet, ready to be exported.

Equal to mmdet's `RetinaHead` at test time as long as the returned `converged` is true and no more than
`nms_candidates` pairs of anchor and class pass the score threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spnas_hw.cost.workload import Size, halved
from spnas_hw.export.neck import TopDown
from spnas_hw.export.postprocess import best_pairs, decode_boxes, suppressed, topk_size
from spnas_hw.space.detector import Detector

_STDS = (1.0, 1.0, 1.0, 1.0)


class OneStageHead(nn.Module):
    """The levels `p_i` -> the best pairs of anchor and class of each: candidates [N, 4], candidate_scores [N]
    and candidate_labels [N], level after level."""

    def __init__(self, bbox_head: nn.Module, detector: Detector, size: Size, first_level: int) -> None:
        super().__init__()
        self.cls_convs, self.reg_convs = bbox_head.cls_convs, bbox_head.reg_convs
        self.cls, self.reg = bbox_head.retina_cls, bbox_head.retina_reg
        self.detector, self.size = detector, size
        count = len(bbox_head.prior_generator.strides)
        sizes = [halved(size, 2 + first_level + level) for level in range(count)]
        for level, anchors in enumerate(bbox_head.prior_generator.grid_priors(sizes, device="cpu")):
            self.register_buffer(f"anchors{level}", anchors)

    def forward(self, *features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = [self._level(level, feature) for level, feature in enumerate(features)]
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return boxes, scores, labels

    def _level(self, level: int, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for_cls = for_reg = feature
        for conv in self.cls_convs:
            for_cls = conv(for_cls)
        for conv in self.reg_convs:
            for_reg = conv(for_reg)
        classes = len(self.detector.classes)
        scores = self.cls(for_cls).float()[0].permute(1, 2, 0).reshape(-1, classes).sigmoid()
        deltas = self.reg(for_reg)[0].permute(1, 2, 0).reshape(-1, 4)
        wanted = self.detector.proposals_per_level
        best, _, row, labels = best_pairs(scores, wanted, "proposals_per_level")
        anchors = getattr(self, f"anchors{level}").index_select(0, row)
        boxes = decode_boxes(anchors, deltas.index_select(0, row), _STDS, *self.size)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # mmdet drops those without
        return boxes, torch.where(has_area, best, 0.0), labels


class OneStagePostprocess(nn.Module):
    """Class-wise NMS of the candidates of all levels: boxes [D, 4], scores [D], labels [D], converged []."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        d = self.detector
        wanted = topk_size("nms_candidates", d.nms_candidates, scores.shape[0])
        best = torch.topk(scores.float(), wanted)
        return suppressed(
            boxes.index_select(0, best.indices),
            best.values,
            labels.index_select(0, best.indices),
            score_threshold=d.score_threshold,
            iou_threshold=d.nms_iou,
            max_detections=d.detections,
        )


class OneStageDetector(nn.Module):
    """The whole of it: image [1, 3, H, W], normalised RGB -> boxes [D, 4] in pixels of that image,
    scores [D], labels [D] (-1: padding), nms_converged [] (False: the NMS may differ from greedy)."""

    def __init__(self, model: nn.Module, detector: Detector, size: Size) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.lateral_convs = model.neck.lateral_convs
        self.top_down = TopDown(model.neck)
        self.head = OneStageHead(model.bbox_head, detector, size, detector.first_stage)
        self.postprocess = OneStagePostprocess(detector)
        self.first_stage = detector.first_stage

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features = self.backbone(image)[self.first_stage :]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, features, strict=True)]
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.postprocess(*self.head(*self.top_down(*laterals)))
        return found
