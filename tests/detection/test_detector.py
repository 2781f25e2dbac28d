"""The detector that mmdet builds: its configuration against mmdet's own, its costs against its module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mmdet
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from spnas_hw.cost.composition import params
from spnas_hw.cost.heads import Fpn, OneStageHead, Pyramid, RoiHead
from spnas_hw.detection.detector import build_model, model_config
from spnas_hw.space.codec import decode
from spnas_hw.space.detector import Detector, DetectorType
from tests.strategies import buildable

RESNET50 = decode("r_111-2111-211111-211")
COCO = tuple(f"class{i}" for i in range(80))
TWO_STAGES: tuple[DetectorType, ...] = ("faster_rcnn", "cascade_rcnn")
TYPES: tuple[DetectorType, ...] = (*TWO_STAGES, "retinanet")
OWN = {"ignore_iof_thr", "sampling_ratio", "finest_scale"}
"""What is ours: ignore regions count, training samples as the exported network does, a scale is given."""


def detector(kind: DetectorType, classes: int = 2) -> Detector:
    if kind == "retinanet":
        return Detector(COCO[:classes], neck_channels=8, anchor_scales=(2.5, 4.0), type=kind, head_convs=2)
    return Detector(COCO[:classes], neck_channels=8, roi_channels=16, proposals=20, type=kind)


def without(document: Any, keys: set[str]) -> Any:
    if isinstance(document, dict):
        return {key: without(value, keys) for key, value in document.items() if key not in keys}
    return [without(value, keys) for value in document] if isinstance(document, list) else document


@pytest.mark.parametrize("kind", TWO_STAGES)
def test_the_configuration_is_that_of_mmdet(kind: DetectorType) -> None:
    """The model and its RoI heads of each type, and the RPN of `faster-rcnn_r50_fpn` in both."""
    base = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_" / "models"
    theirs = Config.fromfile(base / f"{kind.replace('_', '-')}_r50_fpn.py").model.to_dict()
    rpn = Config.fromfile(base / "faster-rcnn_r50_fpn.py").model.to_dict()
    ours = model_config(RESNET50, Detector(COCO, type=kind))
    for key in ("type", "neck", "roi_head", "test_cfg"):
        assert without(ours[key], OWN) == without(theirs[key], OWN), key
    assert without(ours["train_cfg"]["rcnn"], OWN) == without(theirs["train_cfg"]["rcnn"], OWN)
    assert ours["rpn_head"] == rpn["rpn_head"]
    for key in ("rpn", "rpn_proposal"):
        assert without(ours["train_cfg"][key], OWN) == without(rpn["train_cfg"][key], OWN)


def test_the_configuration_of_a_retinanet_is_that_of_mmdet() -> None:
    """But for the extra levels, which come from the last level of the pyramid, not from the last stage: so
    they cost the same behind every backbone. mmdet's three scales per octave are written out."""
    base = Path(mmdet.__file__).parent / ".mim" / "configs" / "_base_" / "models"
    theirs = Config.fromfile(base / "retinanet_r50_fpn.py").model.to_dict()
    scales = tuple(4 * 2 ** (third / 3) for third in range(3))
    ours = model_config(RESNET50, Detector(COCO, anchor_scales=scales, type="retinanet"))
    assert ours["neck"].pop("add_extra_convs") == "on_output"
    assert theirs["neck"].pop("add_extra_convs") == "on_input"
    anchors, octaves = (one["bbox_head"].pop("anchor_generator") for one in (ours, theirs))
    defaults = OWN | {"sampler", "match_low_quality"}  # of mmdet, written out in one of the two
    for key in ("type", "neck", "bbox_head", "train_cfg", "test_cfg"):
        assert without(ours[key], defaults) == without(theirs[key], defaults), key
    for own, other in zip(*(TASK_UTILS.build(one).base_anchors for one in (anchors, octaves)), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("stages", [2, 3, 4, 5])
def test_a_retinanet_learns_whatever_an_image_holds(stages: int) -> None:
    """Objects, ignored ones alone, or none at all; everything learns."""
    code = "b8_" + "-".join(["11", *["2"] * (stages - 1)])
    around = detector("retinanet")
    model = build_model(decode(code), around).train()
    image = torch.randn(1, 3, 64, 96)
    for boxes, ignored in (([[5.0, 10.0, 30.0, 60.0]], []), ([], [[5.0, 10.0, 30.0, 60.0]]), ([], [])):
        shapes = ("img_shape", "pad_shape", "batch_input_shape")
        sample = DetDataSample(metainfo=dict.fromkeys(shapes, (64, 96)))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.int64)
        )
        sample.ignored_instances = InstanceData(bboxes=torch.tensor(ignored).reshape(-1, 4))
        losses = model.loss(image, [sample])
        total = sum(part for parts in losses.values() for part in parts)
        assert torch.isfinite(total)
        if boxes:
            total.backward()
    with torch.no_grad():
        model.eval()
        assert len(model.extract_feat(image)) == stages - 1 + 2
    dead = [name for name, p in model.named_parameters() if p.grad is None]
    assert not dead


def test_a_retinanet_needs_two_stages() -> None:
    with pytest.raises(ValueError, match="needs a backbone of 2 stages, not 1"):
        Pyramid(detector("retinanet"), 1, (64, 96))


@pytest.mark.parametrize("kind", TWO_STAGES)
def test_ignore_regions_count_in_every_stage(kind: DetectorType) -> None:
    """A proposal inside an ignore region is no background, whichever box head it is for."""
    model = build_model(decode("b8_11-2"), detector(kind))
    inside, elsewhere = [42.0, 2.0, 60.0, 30.0], [2.0, 2.0, 20.0, 30.0]
    ignored = InstanceData(bboxes=torch.tensor([[40.0, 0.0, 64.0, 64.0]]))
    truth = InstanceData(bboxes=torch.tensor([[5.0, 40.0, 20.0, 60.0]]), labels=torch.tensor([0]))
    proposals = InstanceData(priors=torch.tensor([inside, elsewhere]))
    assigners = model.roi_head.bbox_assigner
    assigners = assigners if isinstance(assigners, list) else [assigners]
    assert len(assigners) == len(detector(kind).box_stages)
    for assigner in assigners:
        assert assigner.assign(proposals, truth, ignored).gt_inds.tolist() == [-1, 0]


@settings(max_examples=10, deadline=None)
@given(buildable(parallel=False), st.sampled_from(TYPES), st.sampled_from([1, 2, 80]))
def test_parameters_are_those_that_were_reckoned(architecture, kind, classes) -> None:
    around = detector(kind, classes)
    assume(len(architecture.stages) > around.first_stage)
    model = build_model(architecture, around)
    assert sum(p.numel() for p in model.parameters()) == params(architecture, around)


@pytest.mark.parametrize("classes", [1, 2, 80])
def test_macs_of_a_one_stage_head_and_its_neck_are_those_that_run(classes: int) -> None:
    around = detector("retinanet", classes)
    model = build_model(decode("b8_11-2-1"), around)
    total = 0

    def count(module: nn.Conv2d, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        total += output.shape[2] * output.shape[3] * module.weight.numel()

    for part in (model.neck.fpn_convs, model.bbox_head):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
    with torch.no_grad():
        model.bbox_head(model.extract_feat(torch.randn(1, 3, 66, 98)))
    pyramid = Pyramid(around, 3, (66, 98))
    assert total == Fpn(pyramid).macs + OneStageHead(pyramid).macs


@pytest.mark.parametrize("kind", TWO_STAGES)
@pytest.mark.parametrize("classes", [1, 2, 80])
def test_macs_of_the_roi_head_are_those_that_run(kind: DetectorType, classes: int) -> None:
    around = detector(kind, classes)
    model = build_model(decode("b8_11-2-1"), around)
    total = 0

    def count(module: nn.Linear, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        nonlocal total
        total += inputs[0].shape[0] * module.weight.numel()

    for module in model.roi_head.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(count)
    levels = model.extract_feat(torch.randn(1, 3, 64, 96))
    proposals = InstanceData(bboxes=torch.tensor([[4.0, 8.0, 30.0, 60.0]]).repeat(around.proposals, 1))
    sample = DetDataSample(metainfo={"img_shape": (64, 96)})
    with torch.no_grad():
        model.roi_head.forward(levels, [proposals], [sample])
    assert total == RoiHead(Pyramid(around, 3, (64, 96))).macs
