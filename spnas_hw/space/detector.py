"""What surrounds a backbone: the neck and heads of a detector, as a value.

Cost, training and export all derive from this one value, so none can disagree with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

DetectorType = Literal["faster_rcnn", "cascade_rcnn", "retinanet"]


@dataclass(frozen=True)
class BoxStage:
    """One box head of a detector: which RoIs it learns from, and how.

    `iou` is from where on a RoI counts as its object. `delta_stds` are what the deltas (dx, dy, dw, dh) of
    its boxes are divided by, `loss_weight` is what its losses are multiplied by.
    """

    iou: float
    delta_stds: tuple[float, float, float, float]
    loss_weight: float


_FIRST_BOX_STAGE = BoxStage(0.5, (0.1, 0.1, 0.2, 0.2), 1.0)
_BOX_STAGES: Mapping[DetectorType, tuple[BoxStage, ...]] = {
    "faster_rcnn": (_FIRST_BOX_STAGE,),
    "cascade_rcnn": (
        _FIRST_BOX_STAGE,
        BoxStage(0.6, (0.05, 0.05, 0.1, 0.1), 0.5),
        BoxStage(0.7, (0.033, 0.033, 0.067, 0.067), 0.25),
    ),
    "retinanet": (),
}
_ONE_STAGE = frozenset({"retinanet"})
_OF_TWO_STAGES = (
    "proposals",
    "proposal_nms_iou",
    "finest_scale",
    "roi_size",
    "roi_sampling_ratio",
    "roi_channels",
)
_OF_ONE_STAGE = ("head_convs",)


@dataclass(frozen=True)
class Detector:
    """A Faster R-CNN or Cascade R-CNN with an FPN over all stages (defaults: mmdet's `faster-rcnn_r50_fpn`),
    or a RetinaNet.

    A cascade (Cai and Vasconcelos, CVPR 2018; constants of mmdet's `cascade-rcnn_r50_fpn`) has three box
    heads, each on the boxes that the one before it refined. Its pyramid and Faster R-CNN's has one level per
    stage and one more, subsampled from the last, for the proposals.

    A RetinaNet (Lin et al., ICCV 2017; mmdet's `retinanet_r50_fpn`) has no proposals: `head_convs`
    convolutions on every level, then classes and boxes of all anchors, of which `proposals_per_level` pairs
    of anchor and class go on. Its pyramid begins at the second stage and has two more levels, convolved from
    the last. What belongs to proposals and RoIs must be left at its defaults, `head_convs` in the others.

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
    type: DetectorType = "faster_rcnn"
    head_convs: int = 4

    def __post_init__(self) -> None:
        for name in ("neck_channels", "proposals_per_level", "proposals", "roi_size", "roi_sampling_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("roi_channels", "nms_candidates", "detections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.head_convs < 1:
            raise ValueError(f"head_convs is {self.head_convs}; it must be at least 1")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ValueError(f"classes must be distinct names, at least one, not {self.classes}")
        if self.type not in _BOX_STAGES:
            raise ValueError(f"type is {self.type!r}; it must be one of {', '.join(_BOX_STAGES)}")
        defaults = {field.name: field.default for field in fields(self)}
        for name in _OF_TWO_STAGES if self.one_stage else _OF_ONE_STAGE:
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} has no meaning in a {self.type}: leave it out")

    @property
    def one_stage(self) -> bool:
        """Whether it goes without proposals and RoIs."""
        return self.type in _ONE_STAGE

    @property
    def first_stage(self) -> int:
        """The first stage of the backbone that the pyramid reads."""
        return 1 if self.one_stage else 0

    @property
    def extra_levels(self) -> int:
        """Levels of the pyramid below that of the last stage."""
        return 2 if self.one_stage else 1

    @property
    def anchors_per_location(self) -> int:
        return len(self.anchor_scales) * len(self.anchor_ratios)

    @property
    def box_stages(self) -> tuple[BoxStage, ...]:
        """The box heads in their order: one, the three of a cascade, none without RoIs."""
        return _BOX_STAGES[self.type]

    @property
    def class_agnostic(self) -> bool:
        """Whether a RoI has one box, whatever its class."""
        return self.type == "cascade_rcnn"

    @property
    def box_deltas(self) -> int:
        """Outputs of a box head that move the box of a RoI: four for each class, or four."""
        return 4 if self.class_agnostic else 4 * len(self.classes)
