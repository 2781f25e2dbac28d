"""Architecture + Detector -> the mmdet configuration of the whole."""

from __future__ import annotations

from typing import Any

from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

import spnas_hw.detection.framework  # noqa: F401  fills the registries
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import BoxStage, Detector

# ImageNet statistics, RGB in 0..255: what torchvision's and mmdet's pretrained backbones expect.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
PROPOSAL_DELTA_STDS = (1.0, 1.0, 1.0, 1.0)

_MODELS = {"faster_rcnn": "FasterRCNN", "cascade_rcnn": "CascadeRCNN", "retinanet": "RetinaNet"}


def model_config(
    architecture: Architecture,
    detector: Detector,
    *,
    rpn_samples: int = 256,
    roi_samples: int = 512,
    zero_init_residual: bool = True,
    norm_eval: bool = False,
) -> dict[str, Any]:
    """The `model` part of an mmdet configuration.

    Neck channels, anchor strides and RoI strides follow from the architecture. Ignore regions count:
    samples inside one are neither positive nor negative (`ignore_iof_thr`). The RPN and its proposals are
    those of mmdet's `faster-rcnn_r50_fpn` in both types with proposals, all heads those of each type's own
    file. A one-stage detector learns from every anchor: nothing is sampled.
    """
    features = architecture.features()
    levels = range(detector.first_stage, len(features) + detector.extra_levels)
    strides = [4 * 2**level for level in levels]
    if detector.one_stage:
        heads = _one_stage(detector, strides)
    else:
        heads = _two_stages(detector, strides, len(features), rpn_samples, roi_samples)
    return {
        "type": _MODELS[detector.type],
        "data_preprocessor": {
            "type": "DetDataPreprocessor",
            "mean": PIXEL_MEAN,
            "std": PIXEL_STD,
            "bgr_to_rgb": True,
            "pad_size_divisor": 32,
        },
        "backbone": {
            "type": "SPNet",
            "code": encode(architecture),
            "zero_init_residual": zero_init_residual,
            "norm_eval": norm_eval,
        },
        "neck": {
            "type": "FPN",
            "in_channels": [feature.channels for feature in features],
            "out_channels": detector.neck_channels,
            "num_outs": len(levels),
            **(
                {"start_level": detector.first_stage, "add_extra_convs": "on_output"}
                if detector.one_stage
                else {}
            ),
        },
        **heads,
    }


def _two_stages(
    detector: Detector, strides: list[int], stages: int, rpn_samples: int, roi_samples: int
) -> dict[str, Any]:
    """RPN and RoI heads, and how they learn and are tested."""
    return {
        "rpn_head": {
            "type": "RPNHead",
            "in_channels": detector.neck_channels,
            "feat_channels": detector.neck_channels,
            "anchor_generator": _anchors(detector, strides),
            "bbox_coder": _coder(PROPOSAL_DELTA_STDS),
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "roi_head": _roi_head(detector, strides[:stages]),
        "train_cfg": _train_cfg(detector, rpn_samples, roi_samples),
        "test_cfg": {
            "rpn": _proposal_cfg(detector, detector.proposals_per_level, detector.proposals),
            "rcnn": _final_cfg(detector),
        },
    }


def _one_stage(detector: Detector, strides: list[int]) -> dict[str, Any]:
    """The head of a RetinaNet, and how it learns and is tested."""
    return {
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": len(detector.classes),
            "in_channels": detector.neck_channels,
            "stacked_convs": detector.head_convs,
            "feat_channels": detector.neck_channels,
            "anchor_generator": _anchors(detector, strides),
            "bbox_coder": _coder(PROPOSAL_DELTA_STDS),
            "loss_cls": {
                "type": "FocalLoss",
                "use_sigmoid": True,
                "gamma": 2.0,
                "alpha": 0.25,
                "loss_weight": 1.0,
            },
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "train_cfg": {
            "assigner": _assigner(0.5, 0.4, 0.0, True),
            "sampler": {"type": "PseudoSampler"},
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        "test_cfg": {"nms_pre": detector.proposals_per_level, "min_bbox_size": 0, **_final_cfg(detector)},
    }


def _anchors(detector: Detector, strides: list[int]) -> dict[str, Any]:
    return {
        "type": "AnchorGenerator",
        "scales": list(detector.anchor_scales),
        "ratios": list(detector.anchor_ratios),
        "strides": strides,
    }


def _final_cfg(detector: Detector) -> dict[str, Any]:
    """What becomes a detection."""
    return {
        "score_thr": detector.score_threshold,
        "nms": {"type": "nms", "iou_threshold": detector.nms_iou},
        "max_per_img": detector.detections,
    }


def build_model(architecture: Architecture, detector: Detector) -> nn.Module:
    """The detector as a module in eval mode, its weights as constructed."""
    return MODELS.build(ConfigDict(model_config(architecture, detector))).eval()


def _coder(stds: tuple[float, ...]) -> dict[str, Any]:
    return {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": list(stds)}


def _roi_head(detector: Detector, strides: list[int]) -> dict[str, Any]:
    extractor = {
        "type": "SingleRoIExtractor",
        "roi_layer": {
            "type": "RoIAlign",
            "output_size": detector.roi_size,
            "sampling_ratio": detector.roi_sampling_ratio,
        },
        "out_channels": detector.neck_channels,
        "featmap_strides": strides,
        "finest_scale": detector.finest_scale,
    }
    heads = [_box_head(detector, stage) for stage in detector.box_stages]
    if detector.type == "faster_rcnn":
        return {"type": "StandardRoIHead", "bbox_roi_extractor": extractor, "bbox_head": heads[0]}
    return {
        "type": "CascadeRoIHead",
        "num_stages": len(heads),
        "stage_loss_weights": [stage.loss_weight for stage in detector.box_stages],
        "bbox_roi_extractor": extractor,
        "bbox_head": heads,
    }


def _box_head(detector: Detector, stage: BoxStage) -> dict[str, Any]:
    l1 = {"type": "L1Loss", "loss_weight": 1.0}
    smooth_l1 = {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0}
    return {
        "type": "Shared2FCBBoxHead",
        "in_channels": detector.neck_channels,
        "fc_out_channels": detector.roi_channels,
        "roi_feat_size": detector.roi_size,
        "num_classes": len(detector.classes),
        "bbox_coder": _coder(stage.delta_stds),
        "reg_class_agnostic": detector.class_agnostic,
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
        "loss_bbox": l1 if detector.type == "faster_rcnn" else smooth_l1,
    }


def _assigner(positive: float, negative: float, minimum: float, low_quality: bool) -> dict[str, Any]:
    return {
        "type": "MaxIoUAssigner",
        "pos_iou_thr": positive,
        "neg_iou_thr": negative,
        "min_pos_iou": minimum,
        "match_low_quality": low_quality,
        "ignore_iof_thr": 0.5,
    }


def _sampler(samples: int, positive_fraction: float, add_truth: bool) -> dict[str, Any]:
    return {
        "type": "RandomSampler",
        "num": samples,
        "pos_fraction": positive_fraction,
        "neg_pos_ub": -1,
        "add_gt_as_proposals": add_truth,
    }


def _proposal_cfg(detector: Detector, per_level: int, proposals: int) -> dict[str, Any]:
    return {
        "nms_pre": per_level,
        "max_per_img": proposals,
        "nms": {"type": "nms", "iou_threshold": detector.proposal_nms_iou},
        "min_bbox_size": 0,
    }


def _train_cfg(detector: Detector, rpn_samples: int, roi_samples: int) -> dict[str, Any]:
    box_stages = [
        {
            "assigner": _assigner(stage.iou, stage.iou, stage.iou, False),
            "sampler": _sampler(roi_samples, 0.25, True),
            "pos_weight": -1,
            "debug": False,
        }
        for stage in detector.box_stages
    ]
    return {
        "rpn": {
            "assigner": _assigner(0.7, 0.3, 0.3, True),
            "sampler": _sampler(rpn_samples, 0.5, False),
            "allowed_border": -1,
            "pos_weight": -1,
            "debug": False,
        },
        # mmdet's defaults: twice as many candidates a level in training, as many proposals.
        "rpn_proposal": _proposal_cfg(detector, 2 * detector.proposals_per_level, detector.proposals),
        "rcnn": box_stages[0] if detector.type == "faster_rcnn" else box_stages,
    }
