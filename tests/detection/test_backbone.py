from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.backbones import ResNet, ResNeXt
from mmdet.registry import MODELS
from torch import nn

import spnas_hw.detection.framework  # noqa: F401
from spnas_hw.cost.composition import backbone_params, backbone_workloads, macs
from spnas_hw.detection.backbone import SPNet
from spnas_hw.errors import InvalidArchitecture
from spnas_hw.space.codec import decode, encode
from tests.strategies import buildable

small = buildable(base_channels=(4, 8), stages_max=6)
sides = st.integers(17, 130)


def counted_macs(model: nn.Module, image: torch.Tensor) -> int:
    """Multiply-accumulates of the convolutions that really run."""
    total = 0

    def count(module: nn.Conv2d, _inputs, output: torch.Tensor) -> None:
        nonlocal total
        kernel = module.weight.shape[1] * module.weight.shape[2] * module.weight.shape[3]
        total += output[0].numel() * kernel

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    model(image)
    for hook in hooks:
        hook.remove()
    return total


@settings(max_examples=40, deadline=None)
@given(small, sides, sides)
def test_any_architecture_builds_runs_and_costs_what_was_reckoned(architecture, height, width) -> None:
    model = SPNet(encode(architecture)).eval()
    assert sum(p.numel() for p in model.parameters()) == backbone_params(architecture)
    with torch.no_grad():
        found = counted_macs(model, torch.zeros(1, 3, height, width))
    assert found == macs(backbone_workloads(architecture, (height, width)))
    outputs = model.train()(torch.zeros(2, 3, height, width))
    for output, feature in zip(outputs, architecture.features(), strict=True):
        size = (-(-height // feature.stride), -(-width // feature.stride))
        assert tuple(output.shape) == (2, feature.channels, *size)
    sum(output.square().sum() for output in outputs).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ("code", "other"),
    [
        ("b_11-21-21-21", lambda: ResNet(18)),
        ("r_111-2111-211111-211", lambda: ResNet(50)),
        ("x(32x4d)_111-2111-211111-211", lambda: ResNeXt(depth=50, groups=32, base_width=4)),
    ],
)
def test_known_networks_load_by_name_and_agree(code: str, other) -> None:
    torch.manual_seed(0)
    theirs, ours = other(), SPNet(code).eval()
    theirs.eval()  # mmdet's returns nothing
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(image), theirs(image), strict=True):
            assert torch.equal(a, b)


def test_registered() -> None:
    assert isinstance(MODELS.build({"type": "SPNet", "code": "b8_1-2"}), SPNet)


@pytest.mark.parametrize(
    ("code", "steps"),
    # Zeros in a row open one step each: that of a connection, then that of a fresh block.
    [("b8_11-2_0-0", 2), ("r8_11-2_1-2", 3), ("x(2x8d)16_11-2_0-3o", 3), ("b8d_1-21_2-1", 3)],
)
def test_blocks_are_identities_at_birth_and_learn(code: str, steps: int) -> None:
    """All-zero blocks, as the ancestor's, would never receive a gradient."""
    torch.manual_seed(0)
    model = SPNet(code)
    model.init_weights()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        loss = sum((output - 1).square().mean() for output in model(torch.randn(2, 3, 64, 64)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("branches", ["1-2", "1o-2o"])
def test_fresh_branches_preserve_the_function(branches: str) -> None:
    torch.manual_seed(0)
    serial, parallel = SPNet("b8_11-2").eval(), SPNet(f"b8_11-2_{branches}").eval()
    for model in (serial, parallel):
        model.init_weights()
    parallel.load_state_dict(serial.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(serial(image), parallel(image), strict=True):
            assert torch.equal(a, b)


def test_frozen_stages_and_norm_eval() -> None:
    model = SPNet("b8_11-2-1", frozen_stages=1, norm_eval=True)
    model.train()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3"}
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_out_indices() -> None:
    assert len(SPNet("b8_1-2-1", out_indices=(0, 2))(torch.zeros(1, 3, 32, 32))) == 2
    with pytest.raises(ValueError, match="out_indices"):
        SPNet("b8_1-2", out_indices=(2,))
    with pytest.raises(InvalidArchitecture):
        SPNet("b8_3")


@pytest.mark.parametrize(
    "code",
    [
        "x(32x4d)_1111-21111-2111111111111111111111111-211-1_1-0-2-1-2",
        "r_11121111-21111-112-1111-1111_0-0-2-0-3",
    ],
)
def test_published_codes_build_and_run(code: str) -> None:
    model = SPNet(code).eval()
    assert sum(p.numel() for p in model.parameters()) == backbone_params(decode(code))
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 63, 95))
    assert [tuple(output.shape[1:]) for output in outputs] == [
        (channels, -(-63 // stride), -(-95 // stride)) for channels, stride in decoded_features(code)
    ]


def decoded_features(code: str) -> list[tuple[int, int]]:
    return [(feature.channels, feature.stride) for feature in decode(code).features()]


def test_sub_networks_are_wired_as_published() -> None:
    """From the outermost in; the entry is that of its index in the stage before, or the highest there is."""
    model = SPNet("b8_1-1-1_1-3o-2").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.0)

    def connected(index: int, branch: int, output: torch.Tensor, entry: torch.Tensor) -> torch.Tensor:
        connection = model._branch(index, branch)[1]
        added = connection[1](connection[0](output))
        return entry + F.interpolate(added, size=entry.shape[-2:], mode="nearest")

    with torch.no_grad():
        image = torch.randn(1, 3, 70, 50)
        x = model.run_stem(image)
        branch = model.layer1(x)
        first = model.layer1(connected(0, 0, branch, x))
        outer = model.branch2_2(branch)
        middle = model.branch2_1(connected(1, 2, outer, branch))
        inner = model.branch2_0(connected(1, 1, middle, branch))
        second = model.layer2(connected(1, 0, inner, first))
        outer = model.layer3(middle)
        last = model.layer3(connected(2, 1, outer, inner))
        third = model.layer3(connected(2, 0, last, second))
        for found, expected in zip(model(image), (first, second, third), strict=True):
            torch.testing.assert_close(found, expected)
