"""The bounds within which a search may build."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spnas_hw.errors import SpaceExhausted
from spnas_hw.space.architecture import Architecture, Block, Stage

SAMPLE_TRIES = 1000


@dataclass(frozen=True)
class SearchSpace:
    """SP-NAS's serial space: block type, depth, number of stages, and where the width doubles.

    Ranges are inclusive. The reference counts the stem as a stage: its "5 to 7 stages" are 4 to 6
    here, where a stage is a dash-separated part of the code. Depth is 8 to 60 blocks.
    """

    blocks: tuple[Block, ...]
    base_channels: int = 64
    deep_stem: bool = False
    stages: tuple[int, int] = (4, 6)
    depth: tuple[int, int] = (8, 60)
    doublings: tuple[int, int] = (3, 3)

    def __post_init__(self) -> None:
        if not self.blocks or len(set(self.blocks)) != len(self.blocks):
            raise ValueError("blocks must be distinct, at least one")
        for name in ("stages", "depth", "doublings"):
            low, high = getattr(self, name)
            if not 0 <= low <= high:
                raise ValueError(f"{name} is ({low}, {high}); it must be an ascending range")
        if self.base_channels < 2 or self.base_channels % 2:
            raise ValueError(f"base_channels is {self.base_channels}; it must be even and positive")
        if self.stages[0] < 1:
            raise ValueError("an architecture needs at least one stage")
        if self.depth[1] < self.stages[0]:
            raise ValueError(f"{self.depth[1]} blocks cannot fill {self.stages[0]} stages")
        if self.doublings[0] > self.depth[1]:
            raise ValueError(f"{self.doublings[0]} doublings need more than {self.depth[1]} blocks")

    def violations(self, architecture: Architecture) -> tuple[str, ...]:
        """Every bound the architecture breaks, named with the value; empty when it is inside."""
        found = []
        for name, value in (
            ("stages", len(architecture.stages)),
            ("depth", architecture.depth),
            ("doublings", architecture.doublings),
        ):
            low, high = getattr(self, name)
            if not low <= value <= high:
                found.append(f"{name} is {value}, outside {low} to {high}")
        if architecture.block not in self.blocks:
            found.append(f"block {architecture.block.kind} is not in the space")
        if architecture.base_channels != self.base_channels:
            found.append(f"base_channels is {architecture.base_channels}, not {self.base_channels}")
        if architecture.deep_stem != self.deep_stem:
            found.append(f"deep_stem is {architecture.deep_stem}, not {self.deep_stem}")
        return tuple(found)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A serial architecture of the space: uniform block type, stages, depth and doublings, then
        uniform stage boundaries and doubling positions.

        Raises:
            SpaceExhausted: no consistent draw in a bounded number of tries.
        """
        for _ in range(SAMPLE_TRIES):
            stages = int(rng.integers(self.stages[0], self.stages[1] + 1))
            depth = int(rng.integers(self.depth[0], self.depth[1] + 1))
            doublings = int(rng.integers(self.doublings[0], self.doublings[1] + 1))
            if depth < max(stages, doublings):
                continue
            block = self.blocks[int(rng.integers(len(self.blocks)))]
            starts = sorted(int(i) for i in rng.choice(np.arange(1, depth), stages - 1, replace=False))
            doubled = {int(i) for i in rng.choice(depth, doublings, replace=False)}
            bounds = [0, *starts, depth]
            return Architecture(
                block,
                self.base_channels,
                self.deep_stem,
                tuple(
                    Stage(tuple(i in doubled for i in range(start, end))) for start, end in pairwise(bounds)
                ),
            )
        raise SpaceExhausted(f"no architecture with {self.stages} stages and {self.depth} blocks was found")
