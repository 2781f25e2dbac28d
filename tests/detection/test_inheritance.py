from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

from spnas_hw.detection.detector import build_model
from spnas_hw.detection.inheritance import inherit
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.codec import decode
from spnas_hw.space.detector import Detector
from spnas_hw.space.morphism import (
    Morphism,
    add_branch,
    add_stage,
    change_block,
    expand,
    swap,
    unchanged,
    widen,
)
from tests.strategies import buildable

DETECTOR = Detector(("pedestrian", "rider"), neck_channels=8, roi_channels=16, proposals=20)
CASCADE = replace(DETECTOR, type="cascade_rcnn")
small = buildable(parallel=False)


def trained(architecture: Architecture, seed: int, detector: Detector = DETECTOR) -> nn.Module:
    """A detector whose every tensor is away from its initial value."""
    torch.manual_seed(seed)
    model = build_model(architecture, detector)
    model.init_weights()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dtype.is_floating_point:
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def child_of(parent: nn.Module, morphism: Morphism, detector: Detector = DETECTOR) -> nn.Module:
    torch.manual_seed(99)
    child = build_model(morphism.child, detector)
    child.init_weights()
    child.load_state_dict(inherit(parent.state_dict(), morphism, child.state_dict()))
    return child.eval()


@torch.no_grad()
def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Everything the detector computes before boxes are chosen: neck, objectness, deltas."""
    levels = model.extract_feat(image)
    scores, deltas = model.rpn_head(levels)
    return [*levels, *scores, *deltas]


@settings(max_examples=60, deadline=None)
@given(small, st.integers(0, 2**20), st.integers(1, 3))
def test_expansion_preserves_the_detectors_outputs(architecture, seed, blocks) -> None:
    morphism = expand(architecture, np.random.default_rng(seed), blocks)
    parent = trained(architecture, seed)
    child = child_of(parent, morphism)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    for a, b in zip(outputs(parent, image), outputs(child, image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(small, st.integers(0, 2**20))
def test_expansion_preserves_the_boxes_of_a_cascade(architecture, seed) -> None:
    parent = trained(architecture, seed, CASCADE)
    child = child_of(parent, expand(architecture, np.random.default_rng(seed)), CASCADE)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    proposals = InstanceData(bboxes=torch.tensor([[4.0, 8.0, 30.0, 60.0], [0.0, 0.0, 96.0, 64.0]]))

    def box_heads(model: nn.Module) -> tuple[Tensor, ...]:
        with torch.no_grad():
            levels = model.extract_feat(image)
            scores, deltas = model.roi_head.forward(levels, [proposals], [a_street(64, 96)])
        return scores[0], deltas[0]

    for a, b in zip(box_heads(parent), box_heads(child), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@st.composite
def parallel(draw: st.DrawFn, architecture: Architecture) -> Morphism:
    """From a serial architecture, up to three sub-networks a stage, of either kind."""
    morphism = unchanged(architecture)
    for stage in range(len(architecture.stages)):
        count = draw(st.integers(0, 3))
        if count:
            morphism = morphism.then(add_branch(morphism.child, stage, draw(st.booleans()), count))
    assert morphism.preserves_function
    return morphism


@settings(max_examples=8, deadline=None)
@given(small, st.data())
def test_branches_preserve_the_detectors_outputs(architecture, data) -> None:
    first = data.draw(parallel(architecture))
    parent = trained(architecture, 0)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    child = child_of(parent, first)
    for a, b in zip(outputs(parent, image), outputs(child, image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    # One more on a network whose sub-networks were trained already.
    rooms = [i for i, stage in enumerate(first.child.stages) if stage.branches < 3]
    if rooms:
        index = data.draw(st.sampled_from(rooms))
        stage = first.child.stages[index]
        own = stage.own_weights if stage.branches else data.draw(st.booleans())
        grown, morphism = trained(first.child, 1), add_branch(first.child, index, own)
        if morphism.preserves_function:
            for a, b in zip(outputs(grown, image), outputs(child_of(grown, morphism), image), strict=True):
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(small, st.data())
def test_sub_networks_start_from_their_stage(architecture, data) -> None:
    morphism = data.draw(parallel(architecture))
    state = child_of(trained(architecture, 0), morphism).state_dict()
    for key, tensor in state.items():
        if key.startswith("backbone.branch"):
            assert torch.equal(tensor, state[re.sub(r"branch(\d+)_\d+", r"layer\1", key)])


@settings(max_examples=8, deadline=None)
@given(small, st.data())
def test_every_new_parameter_learns_within_two_steps(architecture, data) -> None:
    morphism = data.draw(parallel(architecture))
    backbone = child_of(trained(architecture, 0), morphism).backbone.train()
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1)
    for _ in range(2):
        loss = sum((output - 1).square().mean() for output in backbone(torch.randn(2, 3, 64, 96)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new = [(n, p) for n, p in backbone.named_parameters() if n.startswith(("branch", "connection"))]
    assert [n for n, p in new if p.grad is None or not p.grad.abs().sum() > 0] == []


@settings(max_examples=8, deadline=None)
@given(small, st.integers(0, 2**20))
def test_swap_keeps_every_block_and_all_heads(architecture, seed) -> None:
    try:
        morphism = swap(architecture, np.random.default_rng(seed))
    except ValueError:
        return
    parent = trained(architecture, seed)
    state = child_of(parent, morphism).state_dict()
    old = parent.state_dict()
    for key, tensor in old.items():
        if key.startswith(("rpn_head", "roi_head", "neck.fpn_convs", "backbone.conv1", "backbone.stem")):
            assert torch.equal(state[key], tensor)
    for tensors in (old, state):  # stage boundaries move, the sequence of blocks does not
        tensors["blocks"] = [v for k, v in tensors.items() if ".layer" in k and k.endswith(".conv2.weight")]
    for a, b in zip(old["blocks"], state["blocks"], strict=True):
        wider = [max(1, new // old) for old, new in zip(a.shape, b.shape, strict=True)]
        b = b[:: wider[0]].unflatten(1, (-1, wider[1])).sum(2)  # copies of a channel share its weight
        torch.testing.assert_close(a[: b.shape[0], : b.shape[1]], b, atol=1e-6, rtol=1e-5)


def test_blocks_follow_their_index_when_boundaries_move() -> None:
    parent_code, child_code = decode("b8_111-2-1"), decode("b8_11-12-1")
    morphism = Morphism("swap", parent_code, child_code, (0, 1, 2, 3, 4), False)
    parent = trained(parent_code, 0)
    old, new = parent.state_dict(), child_of(parent, morphism).state_dict()
    assert torch.equal(old["backbone.layer1.2.conv1.weight"], new["backbone.layer2.0.conv1.weight"])
    assert torch.equal(old["backbone.layer2.0.conv1.weight"], new["backbone.layer2.1.conv1.weight"])
    assert torch.equal(old["backbone.layer3.0.conv1.weight"], new["backbone.layer3.0.conv1.weight"])


def test_new_stage_and_new_block_type_start_fresh_elsewhere_inherited() -> None:
    parent_code = decode("b8_11-2")
    parent = trained(parent_code, 0)
    old = parent.state_dict()
    grown = child_of(parent, add_stage(parent_code)).state_dict()
    assert all(torch.equal(grown[key], old[key]) for key in old if key in grown)
    assert {key for key in grown if key not in old and ".layer3" in key}
    changed = child_of(parent, change_block(parent_code, Block("bottleneck"))).state_dict()
    assert torch.equal(changed["rpn_head.rpn_conv.weight"], old["rpn_head.rpn_conv.weight"])


@settings(max_examples=30, deadline=None)
@given(buildable(base_channels=(8, 16)), st.integers(0, 2**20))
def test_widening_where_the_block_projects_preserves_the_detectors_outputs(architecture, seed) -> None:
    try:
        morphism = widen(architecture, np.random.default_rng(seed))
    except ValueError:
        return
    if not morphism.preserves_function:
        return
    parent = trained(architecture, seed)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    for a, b in zip(outputs(parent, image), outputs(child_of(parent, morphism), image), strict=True):
        assert (a - b).abs().max() <= 1e-5 * max(1.0, float(a.abs().max()))


def test_the_copies_of_a_channel_grow_apart() -> None:
    """Copies read with equal weights would get equal gradients, and stay one channel for ever."""
    morphism = Morphism("widen", decode("b8_1-1"), decode("b8_1-2"), (0, 1), True)
    child = child_of(trained(morphism.parent, 0), morphism).train()
    weight = child.backbone.layer2[0].conv1.weight
    assert torch.equal(weight[0::2, :], weight[1::2, :])
    sum(level.square().mean() for level in child.extract_feat(torch.randn(2, 3, 64, 64))).backward()
    assert (weight.grad[0::2] - weight.grad[1::2]).abs().sum() > 1e-3 * weight.grad.abs().sum()


@settings(max_examples=12, deadline=None)
@given(small, st.integers(0, 2**20))
def test_a_new_level_leaves_the_finer_ones_as_they_were(architecture, seed) -> None:
    parent = trained(architecture, seed)
    child = child_of(parent, add_stage(architecture))
    image = torch.randn(1, 3, 64, 96)
    stages = len(architecture.stages)
    with torch.no_grad():
        before, after = parent.extract_feat(image)[:stages], child.extract_feat(image)[:stages]
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("parent_code", "child_code", "loser", "gainer"),
    [
        ("b8_11-11-1", "b8_111-1-1", "layer2.0", "layer2.0"),  # the stage now starts at the next block
        ("b8_111-1-1", "b8_11-11-1", "layer2.0", "layer2.0"),
        ("b8_121-1", "b8_112-1", "layer1.1", "layer1.2"),  # a doubling moves
    ],
)
def test_the_projection_goes_where_the_boundary_goes(parent_code, child_code, loser, gainer) -> None:
    parent_architecture, child_architecture = decode(parent_code), decode(child_code)
    indices = tuple(range(child_architecture.depth))
    morphism = Morphism("swap", parent_architecture, child_architecture, indices, False, ("projections",))
    parent = trained(parent_architecture, 0)
    old, new = parent.state_dict(), child_of(parent, morphism).state_dict()
    for name in ("downsample.0.weight", "downsample.1.weight", "downsample.1.running_mean"):
        assert torch.equal(old[f"backbone.{loser}.{name}"], new[f"backbone.{gainer}.{name}"])


def test_a_new_projection_hands_its_channels_on() -> None:
    morphism = Morphism("widen", decode("b8_11"), decode("b8_12"), (0, 1), False, ("an identity shortcut",))
    child = child_of(trained(morphism.parent, 0), morphism)
    x = torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        found = child.backbone.layer1[1].downsample[0](x)
    assert torch.equal(found, x.repeat_interleave(2, 1))


def a_street(height: int, width: int) -> DetDataSample:
    """The truth of an image with two persons."""
    shapes = dict.fromkeys(("img_shape", "pad_shape", "batch_input_shape"), (height, width))
    sample = DetDataSample(metainfo={**shapes, "scale_factor": (1.0, 1.0)})
    boxes = torch.tensor([[10.0, 12.0, 30.0, 50.0], [40.0, 5.0, 60.0, 60.0]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    return sample


def detection_loss(model: nn.Module) -> Tensor:
    """The losses of the RPN and the RoI head, summed, as training minimises them."""
    losses = model.loss(torch.randn(2, 3, 64, 96), [a_street(64, 96)] * 2)
    found = [value for name, value in losses.items() if "loss" in name]
    return sum(sum(value) if isinstance(value, list) else value for value in found)


def feature_loss(model: nn.Module) -> Tensor:
    return sum((level - 1).square().mean() for level in model.extract_feat(torch.randn(2, 3, 64, 96)))


@pytest.mark.parametrize("loss", [feature_loss, detection_loss])
@pytest.mark.parametrize("position", [1, 2], ids=["mid-stage", "last"])
@pytest.mark.parametrize("code", ["b8_1-21", "r8_1-21", "x(2x8d)16_1-21"])
def test_new_blocks_learn_from_the_first_step(code: str, position: int, loss) -> None:
    """Its gate, gamma of the last normalisation, moves in the first step, all behind it in the second."""
    parent = decode(code)
    inherits = (0, 1, None, 2) if position == 1 else (0, 1, 2, None)
    morphism = Morphism("expand", parent, decode(f"{code}1"), inherits, True)
    child = child_of(trained(parent, 0), morphism).train()
    block = child.backbone.layer2[position]
    optimizer = torch.optim.SGD(child.parameters(), lr=0.01)
    for step in range(2):
        optimizer.zero_grad()
        loss(child).backward()
        if step == 0:
            gate = block.bn3 if hasattr(block, "bn3") else block.bn2
            assert not gate.weight.any() and gate.weight.grad.abs().sum() > 0
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


@pytest.mark.parametrize("detector", [DETECTOR, CASCADE], ids=lambda detector: detector.type)
@pytest.mark.parametrize("code", ["b8_11-2", "r8_11-2", "x(2x8d)16_11-2"])
def test_every_parameter_of_a_grown_detector_learns(code: str, detector: Detector) -> None:
    """A new stage has two gates in a row: its lateral connection in the neck, and that of its block."""
    morphism = add_stage(decode(code))
    child = child_of(trained(morphism.parent, 0, detector), morphism, detector).train()
    optimizer = torch.optim.SGD(child.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        detection_loss(child).backward()
        nn.utils.clip_grad_norm_(child.parameters(), 10.0)
        optimizer.step()
    dead = [n for n, p in child.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


def test_nothing_given_is_modified() -> None:
    architecture = decode("b8_11-2")
    parent = trained(architecture, 0)
    morphism = expand(architecture, np.random.default_rng(0))
    fresh = build_model(morphism.child, DETECTOR).state_dict()
    before = {key: value.clone() for key, value in {**parent.state_dict(), **fresh}.items()}
    state = inherit(parent.state_dict(), morphism, fresh)
    for value in state.values():
        value.zero_()
    assert all(torch.equal(before[k], v) for k, v in {**parent.state_dict(), **fresh}.items())
