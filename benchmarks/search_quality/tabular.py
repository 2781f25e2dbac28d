"""The tabular benchmark: every architecture of a small space, cheapest first, and how good each one is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, pairwise
from pathlib import Path

from spnas_hw.config import SearchConfig, load_search
from spnas_hw.cost.composition import cost
from spnas_hw.space.architecture import Architecture, Stage
from spnas_hw.space.codec import encode
from spnas_hw.space.search_space import SearchSpace

HERE = Path(__file__).parent
TABLE = HERE / "table.csv"
PROVENANCE = HERE / "provenance.json"


def configuration() -> SearchConfig:
    """Space, data and schedule of the benchmark."""
    return load_search(str(HERE / "space.yml"))


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


def cheapest_first(config: SearchConfig) -> list[tuple[int, str]]:
    """(MACs of the whole detector, code) of the space, ascending: any prefix is what a MACs budget allows."""
    return sorted(
        (cost(architecture, config.detector, config.size, None).macs, encode(architecture))
        for architecture in architectures(config.space)
    )
