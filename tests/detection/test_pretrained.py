"""Checkpoints of classifiers load into the codes that describe them, and into no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmdet.models.backbones import ResNet, ResNeXt
from safetensors.torch import save_file
from torch import Tensor, nn

from spnas_hw.detection.backbone import SPNet
from spnas_hw.detection.pretrained import BACKBONE, load_backbone
from spnas_hw.errors import DataError
from spnas_hw.space.codec import decode

RESNET_18 = "b_11-21-21-21"


def shaken(model: nn.Module) -> nn.Module:
    """No tensor keeps its initial value."""
    torch.manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.dtype.is_floating_point:
            tensor.copy_(0.5 + 0.1 * torch.rand_like(tensor) if tensor.dim() == 1 else tensor * 0.5)
    model.eval()  # of mmdet's ResNet it returns nothing
    return model


def head() -> dict[str, Tensor]:
    return {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}


@pytest.mark.parametrize(
    ("code", "model"),
    [
        (RESNET_18, lambda: ResNet(18)),
        ("b_111-2111-211111-211", lambda: ResNet(34)),
        ("r_111-2111-211111-211", lambda: ResNet(50, style="pytorch")),
        ("x(32x4d)_111-2111-211111-211", lambda: ResNeXt(depth=50, groups=32, base_width=4)),
    ],
)
def test_a_backbone_says_what_the_classifiers_does(code: str, model, tmp_path: Path) -> None:
    """mmdet's ResNets have torchvision's names, which are those of timm and mmpretrain, too."""
    theirs = shaken(model())
    torch.save({**theirs.state_dict(), **head()}, tmp_path / "model.pth")
    ours = SPNet(code).eval()
    found = load_backbone(tmp_path / "model.pth", decode(code))
    own = ours.state_dict()
    ours.load_state_dict({**own, **{key.removeprefix(BACKBONE): value for key, value in found.items()}})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"backbone.{key}": value for key, value in state.items()}, "meta": {}},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        lambda state: {"model": state, "epoch": 3},
    ],
)
def test_envelopes_and_prefixes(wrap, tmp_path: Path) -> None:
    state = ResNet(18).state_dict()
    torch.save(state, tmp_path / "plain.pth")
    torch.save(wrap({**state, **head()}), tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "plain.safetensors")
    plain = load_backbone(tmp_path / "plain.pth", decode(RESNET_18))
    for name in ("wrapped.pth", "plain.safetensors"):
        other = load_backbone(tmp_path / name, decode(RESNET_18))
        assert plain.keys() == other.keys()
        assert all(torch.equal(plain[key], other[key]) for key in plain)


def test_sub_networks_start_from_their_stage(tmp_path: Path) -> None:
    torch.save(ResNet(18).state_dict(), tmp_path / "model.pth")
    found = load_backbone(tmp_path / "model.pth", decode(f"{RESNET_18}_0-1o-0-1"))
    stage, own = (f"{BACKBONE}{part}.0.conv1.weight" for part in ("layer2", "branch2_0"))
    assert torch.equal(found[stage], found[own])
    assert not any("connection" in key for key in found)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("b_11-21-21-211", "lacks layer4.2.conv1.weight"),
        ("b_11-21-2-21", "has layer3.1"),
        ("b32_11-21-21-21", r"conv1.weight is \(64, 3, 7, 7\)"),
        ("b_1-211-21-21", "lacks layer2.2|lacks layer2.0.downsample|has layer1.1"),
        ("bd_11-21-21-21", "lacks stem.0.0.weight|lacks stem.0.weight"),
    ],
)
def test_another_network_is_refused(code: str, message: str, tmp_path: Path) -> None:
    torch.save(ResNet(18).state_dict(), tmp_path / "model.pth")
    with pytest.raises(DataError, match=message):
        load_backbone(tmp_path / "model.pth", decode(code))


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 torn"])
def test_what_is_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(content)
    for path in (tmp_path / "model.pth", tmp_path / "model.safetensors", tmp_path / "missing.pth"):
        with pytest.raises(DataError) as caught:
            load_backbone(path, decode(RESNET_18))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    torch.save({"state_dict": {"x": Evil()}}, tmp_path / "model.pth")
    with pytest.raises(DataError, match="no checkpoint of plain tensors"):
        load_backbone(tmp_path / "model.pth", decode(RESNET_18))
    assert not (tmp_path / "run").exists()
