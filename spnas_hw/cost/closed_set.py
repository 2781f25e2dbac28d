"""Every workload a search space can ask for: a small closed set, so that it can be measured whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import product
from types import MappingProxyType

from spnas_hw.cost.composition import workloads
from spnas_hw.cost.workload import Size, Workload
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace


@lru_cache(maxsize=16)
def closed_set(space: SearchSpace, detector: Detector, size: Size) -> Mapping[str, Workload]:
    """Key -> workload of every architecture of the space, with and without sub-networks."""
    found: dict[str, Workload] = {}
    for architecture in representatives(space):
        found.update({load.key: load for load in workloads(architecture, detector, size)})
    return MappingProxyType(found)


def representatives(space: SearchSpace) -> tuple[Architecture, ...]:
    """A few architectures that together contain each block and each connection in each place it can stand.

    What decides a block's cost is its stage, the doublings before it, whether it doubles, and whether it
    opens the stage; a connection's, its stage and the doublings before and in it. For each such place that
    the space allows there is a smallest serial architecture; those that add no new place are left out. All
    have one sub-network at every stage.
    """
    chosen: list[Architecture] = []
    seen: set[tuple[object, ...]] = set()
    candidates = [
        architecture
        for block, (index, before, row) in product(space.blocks, _rows(space))
        for architecture in _smallest_with(space, block, index, before, row)
    ]
    for architecture in candidates:
        new = set(_places(architecture)) - seen
        if new:
            seen |= new
            chosen.append(architecture)
    return tuple(replace(one, stages=tuple(Stage(s.doubles, 1) for s in one.stages)) for one in chosen)


def _rows(space: SearchSpace) -> Iterator[tuple[int, int, tuple[bool, ...]]]:
    """For each place (its stage, doublings before the stage, the blocks of the stage)."""
    most = space.doublings[1]
    places = product(range(space.stages[1]), range(most + 1), (False, True), (False, True))
    for index, doublings, double, opens in sorted(places, reverse=True):
        inside = 0 if opens else doublings if index == 0 else min(1, doublings)
        first = () if opens else (True,) * inside or (False,)
        yield index, doublings - inside, (*first, double)
    for index, before, inside in product(range(space.stages[1]), range(most + 1), range(most + 1)):
        yield index, before, (True,) * inside or (False,)


def _places(architecture: Architecture) -> Iterator[tuple[object, ...]]:
    doublings = 0
    for index, stage in enumerate(architecture.stages):
        before = doublings
        for position, double in enumerate(stage.doubles):
            yield architecture.block, index, doublings, double, position == 0
            doublings += double
        yield architecture.block, "connection", index, before, doublings
    yield "stages", len(architecture.stages)


def _smallest_with(
    space: SearchSpace, block: Block, index: int, before: int, row: tuple[bool, ...]
) -> Iterator[Architecture]:
    """For each number of stages the architecture of fewest blocks that has the stage `row` at `index` after
    so many doublings, if the space has it."""
    if index == 0 and before:
        return
    for stages in range(max(space.stages[0], index + 1), space.stages[1] + 1):
        rows: list[list[bool]] = [[False] for _ in range(stages)]
        rows[index] = list(row)
        # Doublings before the stage: one in each block that is there anyway, the rest in the first stage.
        carriers = range(index)[:before]
        for stage in carriers:
            rows[stage][0] = True
        rows[0] += [True] * (before - len(carriers))
        # Doublings and blocks that the space still asks for, after the place.
        missing = space.doublings[0] - before - sum(row)
        for stage in range(index + 1, stages):
            if missing > 0:
                rows[stage][0] = True
                missing -= 1
        rows[-1] += [True] * max(0, missing)
        rows[-1] += [False] * (space.depth[0] - sum(len(row) for row in rows))
        built = tuple(Stage(tuple(row)) for row in rows)
        architecture = Architecture(block, space.base_channels, space.deep_stem, built)
        if not space.violations(architecture):
            yield architecture
