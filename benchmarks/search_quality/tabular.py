"""The tabular benchmarks: every architecture of a small space, cheapest first, and how good each one is.

`serial`: the networks of space.yml. `parallel`: one of them with every choice of up to two sub-networks a
stage, of either kind. Each has a table of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, product
from pathlib import Path

from spnas_hw.config import SearchConfig, load_search
from spnas_hw.cost.composition import cost
from spnas_hw.search.journal import Phase
from spnas_hw.space.architecture import Architecture, Stage
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.search_space import SearchSpace

HERE = Path(__file__).parent
STACKED_ON = "b16_11-2-2"
BRANCHES = ((0, False), (1, False), (2, False), (1, True), (2, True))
"""Per stage: how many sub-networks, and whether they own their weights."""


@dataclass(frozen=True)
class Tabular:
    """One of the benchmarks."""

    phase: Phase

    @property
    def table(self) -> Path:
        return HERE / f"{self.phase}.csv"

    @property
    def provenance(self) -> Path:
        return HERE / f"{self.phase}.json"

    def configuration(self) -> SearchConfig:
        """Space, data, schedule and start."""
        config = load_search(str(HERE / "space.yml"))
        return config if self.phase == "serial" else replace(config, start=STACKED_ON)

    def cheapest_first(self) -> list[tuple[int, str]]:
        """(MACs of the whole detector, code), ascending: any prefix is what a MACs budget allows."""
        config = self.configuration()
        found = architectures(config.space) if self.phase == "serial" else stacked(decode(config.start))
        return sorted((cost(a, config.detector, config.size, None).macs, encode(a)) for a in found)


def stacked(serial: Architecture) -> Iterator[Architecture]:
    """A serial architecture and all that stand on it."""
    for branches in product(BRANCHES, repeat=len(serial.stages)):
        stages = [Stage(stage.doubles, *of_it) for stage, of_it in zip(serial.stages, branches, strict=True)]
        yield replace(serial, stages=tuple(stages))


def architectures(space: SearchSpace) -> Iterator[Architecture]:
    """Every serial architecture of the space."""
    for block in space.blocks:
        for depth in range(space.depth[0], space.depth[1] + 1):
            for stages in range(space.stages[0], min(space.stages[1], depth) + 1):
                for cuts in combinations(range(1, depth), stages - 1):
                    bounds = [0, *cuts, depth]
                    for doublings in range(space.doublings[0], min(space.doublings[1], depth) + 1):
                        for doubled in combinations(range(depth), doublings):
                            yield Architecture(
                                block,
                                space.base_channels,
                                space.deep_stem,
                                tuple(
                                    Stage(tuple(i in doubled for i in range(start, end)))
                                    for start, end in pairwise(bounds)
                                ),
                            )
