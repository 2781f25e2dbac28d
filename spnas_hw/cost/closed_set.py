"""Every workload a search space can ask for: a small closed set, so that it can be measured whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """Key -> workload of every serial architecture of the space."""
    found: dict[str, Workload] = {}
    for architecture in representatives(space):
        found.update({load.key: load for load in workloads(architecture, detector, size)})
    return MappingProxyType(found)


def representatives(space: SearchSpace) -> tuple[Architecture, ...]:
    """A few architectures of the space that together contain each block in each place it can stand.

    What decides a block's cost is its stage, the doublings before it, whether it doubles, and whether it
    opens the stage. For each such place that the space allows there is a smallest architecture; those
    that add no new place are left out.
    """
    chosen: list[Architecture] = []
    seen: set[tuple[object, ...]] = set()
    places = product(range(space.stages[1]), range(space.doublings[1] + 1), (False, True), (False, True))
    candidates = [
        architecture
        for block, place in product(space.blocks, sorted(places, reverse=True))
        for architecture in _smallest_with(space, block, *place)
    ]
    for architecture in candidates:
        new = set(_places(architecture)) - seen
        if new:
            seen |= new
            chosen.append(architecture)
    return tuple(chosen)


def _places(architecture: Architecture) -> Iterator[tuple[object, ...]]:
    doublings = 0
    for index, stage in enumerate(architecture.stages):
        for position, double in enumerate(stage.doubles):
            yield architecture.block, index, doublings, double, position == 0
            doublings += double
        yield architecture.block, "output", index, doublings
    yield "stages", len(architecture.stages)


def _smallest_with(
    space: SearchSpace, block: Block, index: int, doublings: int, double: bool, opens: bool
) -> Iterator[Architecture]:
    """For each number of stages the architecture of fewest blocks with that place, if the space has it."""
    if index == 0 and opens and doublings:
        return
    for stages in range(max(space.stages[0], index + 1), space.stages[1] + 1):
        rows: list[list[bool]] = [[False] for _ in range(stages)]
        # Doublings before the place: one in each block that is there anyway, the rest in the first stage.
        carriers = range(index if opens else index + 1)[:doublings]
        for stage in carriers:
            rows[stage][0] = True
        rows[0] += [True] * (doublings - len(carriers))
        if opens:
            rows[index][0] = double
        else:
            rows[index].append(double)
        # Doublings and blocks that the space still asks for, after the place.
        missing = space.doublings[0] - doublings - double
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
