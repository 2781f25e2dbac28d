"""What surrounds a backbone: the neck and heads of a two-stage detector, as a value.

Cost, training and export all derive from this one value, so none can disagree with the others.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Detector:
    """A Faster R-CNN with an FPN over all stages (defaults: mmdet's `faster-rcnn_r50_fpn`).

    The pyramid has one level per stage and one more, subsampled from the last, for the proposals.
    `finest_scale` is mmdet's: RoIs smaller than twice as many pixels read the finest level.
    `roi_sampling_ratio` is fixed so that training and the exported network compute the same thing.
    """

    classes: tuple[str, ...]
    neck_channels: int = 256
    anchor_scales: tuple[float, ...] = (8.0,)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    proposals_per_level: int = 1000
    proposals: int = 1000
    proposal_nms_iou: float = 0.7
    finest_scale: float = 56.0
    roi_size: int = 7
    roi_sampling_ratio: int = 2
    roi_channels: int = 1024
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    nms_candidates: int = 1000
    detections: int = 100

    def __post_init__(self) -> None:
        for name in ("neck_channels", "proposals_per_level", "proposals", "roi_size", "roi_sampling_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("roi_channels", "nms_candidates", "detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct names, at least one, not {self.classes}")

    @property
    def anchors_per_location(self) -> int:
        return len(self.anchor_scales) * len(self.anchor_ratios)
