"""What growth does to a backbone, over hundreds of random parents: functions kept, nothing dead."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spnas_hw.detection.backbone import SPNet
from spnas_hw.detection.inheritance import inherit
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.codec import encode
from spnas_hw.space.morphism import (
    Morphism,
    add_branch,
    add_stage,
    change_block,
    expand,
    shrink,
    swap,
    unchanged,
    widen,
)

BLOCKS = (Block("basic"), Block("bottleneck"), Block("resnext", 2, 8))
PARENTS = 120
"""Per block type."""


def a_parent(block: Block, rng: np.random.Generator) -> Architecture:
    """A small serial backbone of at most 2 doublings."""
    stages = [[False] * int(rng.integers(1, 4)) for _ in range(int(rng.integers(1, 4)))]
    for _ in range(int(rng.integers(0, 3))):
        stage = stages[int(rng.integers(len(stages)))]
        stage[int(rng.integers(len(stage)))] = True
    rows = tuple(Stage(tuple(stage)) for stage in stages)
    return Architecture(block, 16 if block.groups > 1 else 4, bool(rng.integers(2)), rows)


def trained(architecture: Architecture, seed: int) -> SPNet:
    """A backbone whose every tensor is away from its initial value, batch-norm statistics included."""
    torch.manual_seed(seed)
    model = SPNet(encode(architecture), zero_init_residual=False)
    model.init_weights()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif tensor.dtype.is_floating_point:
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model.eval()


def grown(parent: SPNet, morphism: Morphism) -> SPNet:
    child = SPNet(encode(morphism.child), zero_init_residual=True)
    child.init_weights()

    def named(model: nn.Module) -> dict[str, Tensor]:
        return {f"backbone.{key}": value for key, value in model.state_dict().items()}

    state = inherit(named(parent), morphism, named(child))
    child.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
    return child.eval()


def preserving(parent: Architecture, rng: np.random.Generator) -> Morphism:
    """One to three operators that keep the function."""
    morphism = unchanged(parent)
    for _ in range(int(rng.integers(1, 4))):
        here = morphism.child
        if rng.random() < 0.5:
            morphism = morphism.then(expand(here, rng))
        else:
            try:
                index = int(rng.integers(len(here.stages)))
                step = add_branch(here, index, bool(rng.integers(2)))
            except ValueError:
                continue
            morphism = morphism.then(step) if step.preserves_function else morphism
    return morphism


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_the_function_is_kept(block: Block) -> None:
    rng = np.random.default_rng(0)
    for seed in range(PARENTS):
        parent = a_parent(block, rng)
        morphism = preserving(parent, rng)
        assert morphism.preserves_function
        model = trained(parent, seed)
        image = torch.randn(1, 3, int(rng.integers(32, 50)), int(rng.integers(32, 50)))
        with torch.no_grad():
            for before, after in zip(model(image), grown(model, morphism)(image), strict=True):
                torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)


def anything(parent: Architecture, block: Block, rng: np.random.Generator) -> Morphism:
    """Three operators of any kind."""
    others = [other for other in BLOCKS[:2] if other != block]
    operators = [
        lambda a: expand(a, rng),
        lambda a: swap(a, rng),
        lambda a: shrink(a, rng),
        lambda a: add_stage(a),
        lambda a: widen(a, rng) if a.doublings < 3 else swap(a, rng),
        lambda a: change_block(a, others[0]),
        lambda a: add_branch(a, int(rng.integers(len(a.stages))), bool(rng.integers(2))),
    ]
    morphism = unchanged(parent)
    while morphism.operator.count("+") < 2:
        try:
            morphism = morphism.then(operators[int(rng.integers(len(operators)))](morphism.child))
        except ValueError:
            continue
    return morphism


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.kind)
def test_nothing_is_dead(block: Block) -> None:
    """In the ancestor two thirds of the children had a block that could not learn, or no signal behind it."""
    rng = np.random.default_rng(1)
    for seed in range(PARENTS // 4):
        parent = a_parent(block, rng)
        morphism = anything(parent, block, rng)
        child = grown(trained(parent, seed), morphism).train()
        image = torch.randn(4, 3, 64, 64)
        optimizer = torch.optim.SGD(child.parameters(), lr=0.02)
        # One gate at zero opens a step: a block's; a block's in a sub-network's behind another's.
        for _ in range(2 if morphism.child.is_serial else 4):
            levels = child(image)
            assert all(level.std() > 1e-3 for level in levels), morphism
            target = [torch.randn_like(level) for level in levels]
            loss = sum((level - wanted).square().mean() for level, wanted in zip(levels, target, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        dead = [
            name
            for name, parameter in child.named_parameters()
            if parameter.grad is None or not parameter.grad.abs().sum() > 0
        ]
        assert not dead, (morphism, dead)
