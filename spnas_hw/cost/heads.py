"""The workloads of neck and heads; see `workload` for what their properties mean."""

from __future__ import annotations

from dataclasses import dataclass

from spnas_hw.cost.workload import Size, Workload, area, biased_params, halved, size_text
from spnas_hw.space.detector import Detector


@dataclass(frozen=True)
class Pyramid:
    """The sizes that the parts of the neck and heads share: a level for each of the stages of the backbone
    that it reads, and the extra levels below."""

    detector: Detector
    stages: int
    size: Size

    def __post_init__(self) -> None:
        if self.stages <= self.detector.first_stage:
            least = self.detector.first_stage + 1
            raise ValueError(f"a {self.detector.type} needs a backbone of {least} stages, not {self.stages}")

    def levels(self) -> range:
        """Numbers of the levels; level i has the stride 4 * 2^i, that of stage i where there is one."""
        return range(self.detector.first_stage, self.stages + self.detector.extra_levels)

    def areas(self) -> tuple[int, ...]:
        """Cells per level, the extra ones last."""
        return tuple(area(halved(self.size, 2 + level)) for level in self.levels())

    @property
    def stage_areas(self) -> tuple[int, ...]:
        """Cells of the levels of stages."""
        return self.areas()[: -self.detector.extra_levels]

    @property
    def elements(self) -> int:
        return self.detector.neck_channels * sum(self.areas())

    @property
    def name(self) -> str:
        return f"{self.stages}x{self.detector.neck_channels}-{size_text(self.size)}"


@dataclass(frozen=True)
class Fpn:
    """Top-down additions, a 3x3 convolution per level, and the extra levels: subsampled, or convolved too."""

    pyramid: Pyramid

    @property
    def key(self) -> str:
        return f"fpn-{self.pyramid.name}{_type_text(self.pyramid.detector) * self._convolves_extra}"

    @property
    def _convolves_extra(self) -> bool:
        return self.pyramid.detector.one_stage

    @property
    def _convolved(self) -> tuple[int, ...]:
        return self.pyramid.areas() if self._convolves_extra else self.pyramid.stage_areas

    @property
    def macs(self) -> int:
        return 9 * self.pyramid.detector.neck_channels**2 * sum(self._convolved)

    @property
    def params(self) -> int:
        channels = self.pyramid.detector.neck_channels
        return len(self._convolved) * biased_params(channels, channels, 3)

    @property
    def peak_elements(self) -> int:
        return 2 * self.pyramid.elements


@dataclass(frozen=True)
class DenseHead:
    """The region proposal network on every level, box decoding and proposal NMS."""

    pyramid: Pyramid

    @property
    def key(self) -> str:
        d = self.pyramid.detector
        kept = f"{d.proposals_per_level}-{d.proposals}"
        return f"dense_head-{self.pyramid.name}-{d.anchors_per_location}a-{kept}"

    @property
    def _outputs(self) -> int:
        return 5 * self.pyramid.detector.anchors_per_location

    @property
    def macs(self) -> int:
        channels = self.pyramid.detector.neck_channels
        return (9 * channels**2 + channels * self._outputs) * sum(self.pyramid.areas())

    @property
    def params(self) -> int:
        channels = self.pyramid.detector.neck_channels
        return biased_params(channels, channels, 3) + biased_params(channels, self._outputs)

    @property
    def peak_elements(self) -> int:
        areas = self.pyramid.areas()
        return self.pyramid.elements + (self.pyramid.detector.neck_channels + self._outputs) * max(areas)


@dataclass(frozen=True)
class RoiHead:
    """RoIAlign over the stage levels and the two-layer box head, as often as the detector has box stages."""

    pyramid: Pyramid

    @property
    def key(self) -> str:
        d = self.pyramid.detector
        roi = f"{d.proposals}p{d.roi_size}s{d.roi_sampling_ratio}"
        return f"roi_head-{self.pyramid.name}-{roi}-{d.roi_channels}-{len(d.classes)}c{_type_text(d)}"

    @property
    def _layers(self) -> tuple[tuple[int, int], ...]:
        d = self.pyramid.detector
        return (
            (d.neck_channels * d.roi_size**2, d.roi_channels),
            (d.roi_channels, d.roi_channels),
            (d.roi_channels, len(d.classes) + 1 + d.box_deltas),
        )

    @property
    def macs(self) -> int:
        d = self.pyramid.detector
        return len(d.box_stages) * d.proposals * sum(i * o for i, o in self._layers)

    @property
    def params(self) -> int:
        return len(self.pyramid.detector.box_stages) * sum(biased_params(i, o) for i, o in self._layers)

    @property
    def peak_elements(self) -> int:
        d = self.pyramid.detector
        # A later box stage has its own boxes, and the logits so far wait for its own.
        held = 4 + len(d.classes) + 1 if len(d.box_stages) > 1 else 0
        return self.pyramid.elements + d.proposals * (held + max(i + o for i, o in self._layers))


@dataclass(frozen=True)
class Postprocess:
    """Class scores, box decoding and class-wise NMS: arithmetic on boxes, no counted MACs."""

    pyramid: Pyramid
    macs: int = 0
    params: int = 0

    @property
    def key(self) -> str:
        d = self.pyramid.detector
        counts = f"{d.proposals}p-{len(d.classes)}c-{d.nms_candidates}-{d.detections}"
        return f"postprocess-{counts}-{size_text(self.pyramid.size)}{_type_text(d)}"

    @property
    def peak_elements(self) -> int:
        d = self.pyramid.detector
        candidates = min(d.nms_candidates, d.proposals * len(d.classes))
        return 2 * candidates**2 + 5 * d.proposals * (len(d.classes) + 1)


@dataclass(frozen=True)
class OneStageHead:
    """Two stacks of convolutions on every level, classes and boxes of all anchors, the best of each level."""

    pyramid: Pyramid

    @property
    def key(self) -> str:
        d = self.pyramid.detector
        what = f"{d.head_convs}x{d.anchors_per_location}a-{len(d.classes)}c-{d.proposals_per_level}"
        return f"one_stage_head-{self.pyramid.name}-{what}{_type_text(d)}"

    @property
    def _outputs(self) -> int:
        d = self.pyramid.detector
        return d.anchors_per_location * (len(d.classes) + 4)

    @property
    def macs(self) -> int:
        d = self.pyramid.detector
        per_cell = 9 * d.neck_channels * (2 * d.head_convs * d.neck_channels + self._outputs)
        return per_cell * sum(self.pyramid.areas())

    @property
    def params(self) -> int:
        d = self.pyramid.detector
        stacks = 2 * d.head_convs * biased_params(d.neck_channels, d.neck_channels, 3)
        return stacks + biased_params(d.neck_channels, self._outputs, 3)

    @property
    def peak_elements(self) -> int:
        largest = max(self.pyramid.areas())
        return self.pyramid.elements + (2 * self.pyramid.detector.neck_channels + self._outputs) * largest

    @property
    def candidates(self) -> int:
        """Pairs of anchor and class that go on, of all levels together."""
        d = self.pyramid.detector
        pairs = d.anchors_per_location * len(d.classes)
        return sum(min(d.proposals_per_level, cells * pairs) for cells in self.pyramid.areas())


@dataclass(frozen=True)
class OneStagePostprocess:
    """Class-wise NMS of the candidates of all levels: arithmetic on boxes, no counted MACs."""

    pyramid: Pyramid
    macs: int = 0
    params: int = 0

    @property
    def key(self) -> str:
        d = self.pyramid.detector
        counts = f"{OneStageHead(self.pyramid).candidates}p-{d.nms_candidates}-{d.detections}"
        return f"postprocess-{counts}-{size_text(self.pyramid.size)}{_type_text(d)}"

    @property
    def peak_elements(self) -> int:
        candidates = OneStageHead(self.pyramid).candidates
        return 2 * min(self.pyramid.detector.nms_candidates, candidates) ** 2 + 6 * candidates


def heads(pyramid: Pyramid) -> tuple[Workload, ...]:
    """The workloads of neck and heads, in the order in which they run."""
    if pyramid.detector.one_stage:
        return Fpn(pyramid), OneStageHead(pyramid), OneStagePostprocess(pyramid)
    return Fpn(pyramid), DenseHead(pyramid), RoiHead(pyramid), Postprocess(pyramid)


def _type_text(detector: Detector) -> str:
    """Ends the keys of other detectors than a Faster R-CNN, which came first."""
    return "" if detector.type == "faster_rcnn" else f"-{detector.type}"
