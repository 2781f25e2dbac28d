from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spnas_hw.detection.detector import build_model
from spnas_hw.detection.inheritance import inherit
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.codec import decode
from spnas_hw.space.detector import Detector
from spnas_hw.space.morphism import Morphism, add_branch, add_stage, change_block, expand, swap
from tests.strategies import buildable

DETECTOR = Detector(("pedestrian", "rider"), neck_channels=8, roi_channels=16, proposals=20)
small = buildable(parallel=False)


def trained(architecture: Architecture, seed: int) -> nn.Module:
    """A detector whose every tensor is away from its initial value."""
    torch.manual_seed(seed)
    model = build_model(architecture, DETECTOR)
    model.init_weights()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dtype.is_floating_point:
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def child_of(parent: nn.Module, morphism: Morphism) -> nn.Module:
    torch.manual_seed(99)
    child = build_model(morphism.child, DETECTOR)
    child.init_weights()
    child.load_state_dict(inherit(parent.state_dict(), morphism, child.state_dict()))
    return child.eval()


@torch.no_grad()
def outputs(model: nn.Module, image: Tensor) -> list[Tensor]:
    """Everything the detector computes before boxes are chosen: neck, objectness, deltas."""
    levels = model.extract_feat(image)
    scores, deltas = model.rpn_head(levels)
    return [*levels, *scores, *deltas]


@settings(max_examples=120, deadline=None)
@given(small, st.integers(0, 2**20), st.integers(1, 3))
def test_expansion_preserves_the_detectors_outputs(architecture, seed, blocks) -> None:
    morphism = expand(architecture, np.random.default_rng(seed), blocks)
    parent = trained(architecture, seed)
    child = child_of(parent, morphism)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(seed))
    for a, b in zip(outputs(parent, image), outputs(child, image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(small, st.booleans(), st.data())
def test_branches_preserve_the_detectors_outputs(architecture, own, data) -> None:
    index = data.draw(st.integers(0, len(architecture.stages) - 1))
    parent = trained(architecture, 0)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    child = child_of(parent, add_branch(architecture, index, own))
    for a, b in zip(outputs(parent, image), outputs(child, image), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    if own:  # a sub-network with weights of its own starts from those of its stage
        state = child.state_dict()
        for key in [k for k in state if k.startswith(f"backbone.branch{index + 1}_0")]:
            source = key.replace(f"branch{index + 1}_0", f"layer{index + 1}")
            assert torch.equal(state[key], state[source])


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
        shared = [slice(min(x, y)) for x, y in zip(a.shape, b.shape, strict=True)]
        assert torch.equal(a[tuple(shared)], b[tuple(shared)])


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


@pytest.mark.parametrize("code", ["b8_11-2", "r8_11-2", "x(2x8d)16_11-2"])
def test_new_blocks_learn_from_the_first_step(code: str) -> None:
    architecture = decode(code)
    morphism = expand(architecture, np.random.default_rng(0))
    child = child_of(trained(architecture, 0), morphism).train()
    (new,) = [j for j, i in enumerate(morphism.inherits) if i is None]
    stage = morphism.child.residuals()[new].stage
    position = new - sum(len(s.doubles) for s in morphism.child.stages[:stage])
    block = getattr(child.backbone, f"layer{stage + 1}")[position]
    optimizer = torch.optim.SGD(child.parameters(), lr=0.05)
    for _ in range(2):
        loss = sum((level - 1).square().mean() for level in child.extract_feat(torch.randn(2, 3, 64, 64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())


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
