"""Workloads: one piece of a detector at one input shape, the thing a profiler measures.

Every class here is a value with the same four properties. `macs` counts the multiply-accumulates of
convolutions and fully connected layers for one image (the convention under which ResNet-50 has 4.1 G
at 224x224); `params` counts weights and the scale and shift of normalisations; `peak_elements` is
the number of tensor elements alive at once while it runs, inputs and outputs included; `key` spells
out all that decides its cost. Runtime, precision and batch belong to the table, not to the key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from spnas_hw.space.architecture import Block

Size: TypeAlias = tuple[int, int]  # height, width in pixels or feature cells


def halved(size: Size, times: int = 1) -> Size:
    """The size after `times` convolutions (or poolings) of stride 2 that pad by half their kernel."""
    height, width = size
    for _ in range(times):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def area(size: Size) -> int:
    return size[0] * size[1]


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def normed_params(in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> int:
    """Parameters of a convolution without bias followed by a normalisation layer."""
    return in_channels // groups * out_channels * kernel**2 + 2 * out_channels


def biased_params(in_channels: int, out_channels: int, kernel: int = 1) -> int:
    return (in_channels * kernel**2 + 1) * out_channels


class Workload(Protocol):
    """What all workloads have in common."""

    @property
    def key(self) -> str: ...
    @property
    def macs(self) -> int: ...
    @property
    def params(self) -> int: ...
    @property
    def peak_elements(self) -> int: ...


@dataclass(frozen=True)
class Overhead:
    """What one run of any network costs before it computes anything."""

    key: str = "overhead"
    macs: int = 0
    params: int = 0
    peak_elements: int = 0


@dataclass(frozen=True)
class Stem:
    """Image -> stride 4: 7x7 stride 2 and max-pooling, or (deep) two 3x3 of stride 2."""

    channels: int
    deep: bool
    size: Size

    @property
    def key(self) -> str:
        return f"stem-{self.channels}{'d' * self.deep}-{size_text(self.size)}"

    @property
    def macs(self) -> int:
        half, quarter = area(halved(self.size)), area(halved(self.size, 2))
        if self.deep:
            return 27 * self.channels // 2 * half + 9 * self.channels // 2 * self.channels * quarter
        return 3 * 49 * self.channels * half

    @property
    def params(self) -> int:
        if self.deep:
            return normed_params(3, self.channels // 2, 3) + normed_params(
                self.channels // 2, self.channels, 3
            )
        return normed_params(3, self.channels, 7)

    @property
    def peak_elements(self) -> int:
        image, half, quarter = area(self.size), area(halved(self.size)), area(halved(self.size, 2))
        middle = (self.channels // 2 if self.deep else self.channels) * half
        return max(3 * image + middle, middle + self.channels * quarter)


@dataclass(frozen=True)
class ResidualBlock:
    """One residual block; `size` is that of its input. The stride sits in the 3x3 convolution
    (in the first one of a basic block), as in mmdet's "pytorch" style."""

    block: Block
    in_channels: int
    planes: int
    stride: int
    size: Size

    @property
    def out_channels(self) -> int:
        return self.planes * self.block.expansion

    @property
    def out_size(self) -> Size:
        return halved(self.size) if self.stride == 2 else self.size

    @property
    def projects(self) -> bool:
        return self.stride != 1 or self.in_channels != self.out_channels

    @property
    def repeats(self) -> bool:
        """Whether its output can be the input of another one like it."""
        return not self.projects

    @property
    def key(self) -> str:
        groups, width = self.block.groups, self.block.base_width
        kind = f"resnext{groups}x{width}d" if self.block.kind == "resnext" else self.block.kind
        return f"{kind}-{self.in_channels}-{self.planes}-s{self.stride}-{size_text(self.size)}"

    def _convolutions(self) -> list[tuple[int, int, int, int, Size]]:
        """(in, out, kernel, groups, output size) of each convolution of the residual branch."""
        width = self.block.inner_width(self.planes)
        if self.block.kind == "basic":
            return [
                (self.in_channels, self.planes, 3, 1, self.out_size),
                (self.planes, self.planes, 3, 1, self.out_size),
            ]
        return [
            (self.in_channels, width, 1, 1, self.size),
            (width, width, 3, self.block.groups, self.out_size),
            (width, self.out_channels, 1, 1, self.out_size),
        ]

    def _all_convolutions(self) -> list[tuple[int, int, int, int, Size]]:
        shortcut = [(self.in_channels, self.out_channels, 1, 1, self.out_size)] if self.projects else []
        return self._convolutions() + shortcut

    @property
    def macs(self) -> int:
        return sum(i // g * o * k**2 * area(size) for i, o, k, g, size in self._all_convolutions())

    @property
    def params(self) -> int:
        return sum(normed_params(i, o, k, g) for i, o, k, g, _ in self._all_convolutions())

    @property
    def peak_elements(self) -> int:
        shortcut = self.in_channels * area(self.size)
        before, peak = shortcut, 0
        for position, (_, channels, _, _, size) in enumerate(self._convolutions()):
            after = channels * area(size)
            peak = max(peak, before + after + (shortcut if position else 0))
            before = after
        if self.projects:
            peak = max(peak, shortcut + 2 * before)
        return peak


@dataclass(frozen=True)
class Lateral:
    """The 1x1 convolution that leads the output of a stage into the neck."""

    in_channels: int
    out_channels: int
    size: Size

    @property
    def key(self) -> str:
        return f"lateral-{self.in_channels}-{self.out_channels}-{size_text(self.size)}"

    @property
    def macs(self) -> int:
        return self.in_channels * self.out_channels * area(self.size)

    @property
    def params(self) -> int:
        return biased_params(self.in_channels, self.out_channels)

    @property
    def peak_elements(self) -> int:
        return (self.in_channels + self.out_channels) * area(self.size)


@dataclass(frozen=True)
class Connection:
    """From the output of a parallel sub-network back to its stage's input: 1x1 convolution,
    normalisation, nearest resizing to `size`, addition. Only `own` connections add parameters of
    their own; branches that share a stage's weights share one connection."""

    in_channels: int
    out_channels: int
    in_size: Size
    size: Size

    @property
    def key(self) -> str:
        sizes = f"{size_text(self.in_size)}-{size_text(self.size)}"
        return f"connection-{self.in_channels}-{self.out_channels}-{sizes}"

    @property
    def macs(self) -> int:
        return self.in_channels * self.out_channels * area(self.in_size)

    @property
    def params(self) -> int:
        return normed_params(self.in_channels, self.out_channels, 1)

    @property
    def peak_elements(self) -> int:
        grown = self.out_channels * area(self.size)
        return max((self.in_channels + self.out_channels) * area(self.in_size), 2 * grown)
