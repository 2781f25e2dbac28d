"""What a backbone is: frozen values, from which channels and strides are derived, never stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

BlockKind = Literal["basic", "bottleneck", "resnext"]
BRANCHES_MAX = 3


@dataclass(frozen=True)
class Block:
    """The residual block a backbone repeats: ResNet's basic and bottleneck blocks, or ResNeXt's.

    `groups` and `base_width` only differ from 1 and 64 for `resnext` (ResNeXt 32x4d: 32 and 4).
    """

    kind: BlockKind
    groups: int = 1
    base_width: int = 64

    def __post_init__(self) -> None:
        if self.kind != "resnext" and (self.groups, self.base_width) != (1, 64):
            raise ValueError(f"groups and base_width belong to resnext blocks, not to {self.kind}")
        if self.groups < 1 or self.base_width < 1:
            raise ValueError(f"groups {self.groups} and base_width {self.base_width} must be positive")

    @property
    def expansion(self) -> int:
        """Output channels per plane."""
        return 1 if self.kind == "basic" else 4

    def inner_width(self, planes: int) -> int:
        """Channels of the 3x3 convolution (ResNeXt: floor(planes * base_width / 64) * groups)."""
        return planes if self.kind != "resnext" else planes * self.base_width // 64 * self.groups


@dataclass(frozen=True)
class Stage:
    """A run of blocks at one resolution; its first block has stride 2, except in the first stage.

    `doubles[i]` is True where block i doubles the width. `branches` is K, the number of parallel
    sub-networks stacked at the stage; they share the stage's weights unless `own_weights`.
    """

    doubles: tuple[bool, ...]
    branches: int = 0
    own_weights: bool = False

    def __post_init__(self) -> None:
        if not self.doubles:
            raise ValueError("a stage needs at least one block")
        if not 0 <= self.branches <= BRANCHES_MAX:
            raise ValueError(f"branches is {self.branches}; it must be 0 to {BRANCHES_MAX}")
        if self.own_weights and not self.branches:
            raise ValueError("a stage without branches has no weights of its own to keep apart")


@dataclass(frozen=True)
class Feature:
    """What a neck needs to know of one stage output."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Residual:
    """One block in its place: everything needed to build it."""

    stage: int
    in_channels: int
    planes: int
    out_channels: int
    stride: int

    @property
    def projects(self) -> bool:
        """Whether the shortcut is a 1x1 convolution rather than the identity."""
        return self.stride != 1 or self.in_channels != self.out_channels


@dataclass(frozen=True)
class Architecture:
    """A backbone as a value; `codec` gives its one textual form."""

    block: Block
    base_channels: int
    deep_stem: bool
    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if self.base_channels < 2 or self.base_channels % 2:
            raise ValueError(f"base_channels is {self.base_channels}; it must be even and positive")
        if self.block.inner_width(self.base_channels) < 1:
            raise ValueError(f"{self.base_channels} base channels give blocks of width 0")
        if not self.stages:
            raise ValueError("an architecture needs at least one stage")

    @property
    def depth(self) -> int:
        """Number of residual blocks of the main branch."""
        return sum(len(stage.doubles) for stage in self.stages)

    @property
    def doublings(self) -> int:
        """How often the width doubles."""
        return sum(sum(stage.doubles) for stage in self.stages)

    @property
    def is_serial(self) -> bool:
        """Whether no stage has parallel sub-networks."""
        return all(stage.branches == 0 for stage in self.stages)

    def residuals(self) -> tuple[Residual, ...]:
        """Every block of the main branch, in order."""
        return tuple(self._walk())

    def _walk(self) -> Iterator[Residual]:
        in_channels = planes = self.base_channels
        for index, stage in enumerate(self.stages):
            for position, double in enumerate(stage.doubles):
                planes *= 2 if double else 1
                out_channels = planes * self.block.expansion
                stride = 2 if position == 0 and index > 0 else 1
                yield Residual(index, in_channels, planes, out_channels, stride)
                in_channels = out_channels

    def stage_residuals(self, index: int) -> tuple[Residual, ...]:
        """The blocks of stage `index`, in order."""
        return tuple(residual for residual in self._walk() if residual.stage == index)

    def features(self) -> tuple[Feature, ...]:
        """(channels, stride) of every stage output; the stride of stage i is 4 * 2**i."""
        channels = {residual.stage: residual.out_channels for residual in self._walk()}
        return tuple(Feature(channels[i], 4 * 2**i) for i in range(len(self.stages)))
