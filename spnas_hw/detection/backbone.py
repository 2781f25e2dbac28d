"""SPNet: any architecture code as an mmdet backbone.

Module names follow torchvision's and mmdet's ResNet (`conv1`, `bn1`, `layer1.0.conv2`, ...), so the
checkpoint of a ResNet loads into the code that describes it. Parallel sub-networks follow SP-NAS's
first release: from the outermost in, each runs the stage on the output of the branch of its index
in the stage before, and hands its result through a connection to the input of the next one in.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.models.backbones.resnext import Bottleneck as ResNeXtBottleneck
from mmdet.registry import MODELS
from mmengine.model import BaseModule, constant_init, kaiming_init
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor, nn

from spnas_hw.space.architecture import Architecture, Residual
from spnas_hw.space.codec import decode

OUTER_GAMMA = 0.1
"""Of new connections between sub-networks: small, so that what they feed stays nearly what it was."""


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class Connection(nn.Sequential):
    """From the output of a sub-network to what the next one in reads: 1x1 convolution, normalisation, nearest
    resizing, addition."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(*_conv_norm(in_channels, out_channels, 1))

    def forward(self, x: Tensor, entry: Tensor) -> Tensor:
        """[N, in, h, w], [N, out, H, W] -> [N, out, H, W]."""
        added = super().forward(x)
        if added.shape != entry.shape:
            added = F.interpolate(added, size=entry.shape[-2:], mode="nearest")
        return entry + added


def _block(architecture: Architecture, residual: Residual) -> nn.Module:
    block = architecture.block
    downsample = None
    if residual.projects:
        downsample = _conv_norm(residual.in_channels, residual.out_channels, 1, residual.stride)
    shared = {"stride": residual.stride, "downsample": downsample}
    if block.kind == "basic":
        return BasicBlock(residual.in_channels, residual.planes, **shared)
    if block.kind == "bottleneck":
        return Bottleneck(residual.in_channels, residual.planes, **shared)
    return ResNeXtBottleneck(
        residual.in_channels, residual.planes, groups=block.groups, base_width=block.base_width, **shared
    )


@MODELS.register_module()
class SPNet(BaseModule):
    """The backbone that an architecture code describes.

    Args:
        code: architecture code, e.g. `r_111-2111-211111-211_0-0-0-0` (ResNet-50).
        out_indices: stages whose outputs are returned; None for all.
        frozen_stages: -1 freezes nothing, 0 the stem, i the stem and stages 1 to i.
        norm_eval: keep normalisation layers in eval mode while training.
        zero_init_residual: blocks start as identities (gamma = 0 in their last normalisation), as new
            blocks of a grown network must. A whole network trained from nothing learns faster without.

    `forward` maps images [N, 3, H, W] to a tuple of [N, channels_i, H / stride_i, W / stride_i] as
    in `Architecture.features()`, sizes rounded up.
    """

    def __init__(
        self,
        code: str,
        out_indices: tuple[int, ...] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        zero_init_residual: bool = True,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.architecture = architecture = decode(code)
        stages = len(architecture.stages)
        self.out_indices = tuple(range(stages)) if out_indices is None else out_indices
        if not all(0 <= index < stages for index in self.out_indices):
            raise ValueError(f"out_indices {self.out_indices} must be within the {stages} stages of {code}")
        self.frozen_stages, self.norm_eval = frozen_stages, norm_eval
        self.zero_init_residual = zero_init_residual
        self._build_stem()
        for index, stage in enumerate(architecture.stages):
            self.add_module(f"layer{index + 1}", self._build_stage(index))
            residuals = architecture.stage_residuals(index)
            ends = residuals[-1].out_channels, residuals[0].in_channels
            if stage.branches and not stage.own_weights:
                self.add_module(f"connection{index + 1}", Connection(*ends))
                continue
            for branch in range(stage.branches):
                self.add_module(f"branch{index + 1}_{branch}", self._build_stage(index))
                self.add_module(f"connection{index + 1}_{branch}", Connection(*ends))
        self._freeze()

    def _build_stem(self) -> None:
        base = self.architecture.base_channels
        if self.architecture.deep_stem:
            self.stem = nn.Sequential(
                *_conv_norm(3, base // 2, 3, 2),
                nn.ReLU(True),
                *_conv_norm(base // 2, base, 3, 2),
                nn.ReLU(True),
            )
        else:
            self.conv1, self.bn1 = _conv_norm(3, base, 7, 2)
            self.relu, self.maxpool = nn.ReLU(True), nn.MaxPool2d(3, 2, 1)

    def _build_stage(self, index: int) -> nn.Sequential:
        residuals = self.architecture.stage_residuals(index)
        return nn.Sequential(*(_block(self.architecture, residual) for residual in residuals))

    def run_stem(self, image: Tensor) -> Tensor:
        """Images [N, 3, H, W] -> [N, base_channels, H / 4, W / 4]."""
        if self.architecture.deep_stem:
            return self.stem(image)
        return self.maxpool(self.relu(self.bn1(self.conv1(image))))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.run_stem(image)
        outputs: list[Tensor] = []
        kept: list[Tensor] = []  # outputs of the sub-networks of the stage before
        for index, stage in enumerate(self.architecture.stages):
            # What the main branch and each sub-network read, before the one outside adds its own.
            entries = [x, *(kept[min(i, len(kept) - 1)] if kept else x for i in range(stage.branches))]
            entry, kept = entries[-1], []
            for branch in reversed(range(stage.branches)):
                sub_network, connection = self._branch(index, branch)
                output = sub_network(entry)
                kept.insert(0, output)
                entry = connection(output, entries[branch])
            x = getattr(self, f"layer{index + 1}")(entry)
            outputs.append(x)
        return tuple(outputs[index] for index in self.out_indices)

    def _branch(self, index: int, branch: int) -> tuple[nn.Module, nn.Module]:
        """The sub-network and the connection of a branch of stage `index`."""
        if self.architecture.stages[index].own_weights:
            suffix = f"{index + 1}_{branch}"
            return getattr(self, f"branch{suffix}"), getattr(self, f"connection{suffix}")
        return getattr(self, f"layer{index + 1}"), getattr(self, f"connection{index + 1}")

    def init_weights(self) -> None:
        """Kaiming convolutions; the last normalisation of every block (`zero_init_residual`) starts at
        gamma = 0, so that a block is the identity at birth and still learns from the first step.

        Nor does anything of the sub-networks reach the main branch at birth: the connection into it starts at
        gamma = 0. Connections between sub-networks do not, so that all of them learn from the second step.
        """
        super().init_weights()
        if self.init_cfg is not None:
            return
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kaiming_init(module)
            elif isinstance(module, _BatchNorm):
                constant_init(module, 1)
        for module in self.modules():
            if isinstance(module, BasicBlock) and self.zero_init_residual:
                constant_init(module.norm2, 0)
            elif isinstance(module, Bottleneck | ResNeXtBottleneck) and self.zero_init_residual:
                constant_init(module.norm3, 0)
        for index, stage in enumerate(self.architecture.stages):
            for branch in reversed(range(stage.branches)):
                constant_init(self._branch(index, branch)[1][1], OUTER_GAMMA if branch else 0)

    def train(self, mode: bool = True) -> SPNet:
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        stem = [self.stem] if self.architecture.deep_stem else [self.conv1, self.bn1]
        layers = [getattr(self, f"layer{index + 1}") for index in range(self.frozen_stages)]
        for module in stem + layers:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False
