"""Whether a budget can be met at all, and the smallest cost a search space can reach under a table.

Latency, MACs and parameters are sums over blocks, so their smallest values come from an exact
shortest path over (stage, doublings, blocks): milliseconds of work, however large the space. Where that
does not decide, for memory and for several limits at once, the smallest architectures are looked through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, islice, pairwise, product

import numpy as np

from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import head_workloads
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.pricer import Pricer
from spnas_hw.cost.workload import Connection, Lateral, Overhead, ResidualBlock, Size, Stem, Workload, halved
from spnas_hw.errors import InfeasibleBudget, MissingWorkload
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace

EXAMINED_MAX = 20_000
UNITS = {"latency_ms": "ms", "memory_mb": "MiB of memory", "macs": "MACs", "params": "parameters"}


@dataclass(frozen=True)
class Smallest:
    """The smallest value of one cost, and an architecture that has it."""

    value: float
    architecture: Architecture


@dataclass(frozen=True)
class _Path:
    cost: float
    stages: tuple[tuple[bool, ...], ...]


def smallest(
    space: SearchSpace, additive: Callable[[Workload], float], detector: Detector, size: Size
) -> Smallest:
    """The smallest sum of `additive` over the workloads of any architecture of the space (exact)."""
    best: Smallest | None = None
    for block in space.blocks:
        for total, stages in _complete_paths(space, block, additive, detector, size):
            if best is None or total < best.value:
                built = tuple(Stage(doubles) for doubles in stages)
                best = Smallest(total, Architecture(block, space.base_channels, space.deep_stem, built))
    if best is None:
        raise InfeasibleBudget("the search space is empty: widen its stages, depth or doublings")
    return best


def find_feasible(
    budget: Budget,
    space: SearchSpace,
    detector: Detector,
    size: Size,
    table: Mapping[str, float] | None,
    precision: str = "fp32",
    headroom: float = 0.0,
) -> Architecture:
    """An architecture of the space that keeps every limit, and whose workloads are all in the table.

    `headroom`: the share of the latency that predictions must leave free.

    Raises:
        InfeasibleBudget: the limit that binds, and the smallest reachable value.
        MissingWorkload: no architecture of the space was measured completely.
        ValueError: a latency budget without a table.
    """
    if budget.latency_ms is not None and table is None:
        raise ValueError("a latency budget needs a latency table")
    space = budget.within(space)
    limits = budget.with_headroom(headroom)
    price = Pricer(detector, size, table, precision)
    for name, additive in _SUMS.items():
        if name == "latency_ms" and table is None:
            continue
        low = smallest(space, _measured(additive, table), detector, size)
        if math.isinf(low.value):
            loads = closed_set(space, detector, size)
            serial = [key for key, load in loads.items() if not isinstance(load, Connection)]
            raise MissingWorkload(key for key in serial if key not in (table or {}))
        cost, limit = price(low.architecture), getattr(limits, name)
        if not limits.violations(cost):
            return low.architecture
        if limit is not None and getattr(cost, name) > limit:
            raise InfeasibleBudget(_alone(name, budget, headroom, getattr(cost, name), low.architecture))
    return _among_smallest(limits, space, price)


_SUMS: dict[str, Callable[[Workload, Mapping[str, float]], float]] = {
    "latency_ms": lambda load, table: table[load.key],
    "macs": lambda load, table: load.macs,
    "params": lambda load, table: load.params,
}
"""The costs that are sums over workloads."""


def _measured(
    additive: Callable[[Workload, Mapping[str, float]], float], table: Mapping[str, float] | None
) -> Callable[[Workload], float]:
    """`additive`, and infinity for what the table lacks."""
    known: Mapping[str, float] = {} if table is None else table
    return lambda load: math.inf if table is not None and load.key not in table else additive(load, known)


def _alone(name: str, budget: Budget, headroom: float, value: float, architecture: Architecture) -> str:
    """The message for one limit that cannot be kept whatever the others are."""
    code, limit = encode(architecture), getattr(budget, name)
    if name == "latency_ms":
        needed = math.ceil(value / (1 - headroom) * 1000) / 1000
        return (
            f"no detector of the search space is predicted within {limit:g} ms less {headroom:.0%} headroom: "
            f"the smallest reachable is {value:.4g} ms ({code}), which needs a budget of {needed:g} ms"
        )
    return (
        f"no architecture of the search space is within {limit:g} {UNITS[name]}: "
        f"the smallest reachable is {value:.4g} {UNITS[name]} ({code})"
    )


def _among_smallest(limits: Budget, space: SearchSpace, price: Pricer) -> Architecture:
    """The first of the smallest architectures within the limits, or InfeasibleBudget with the nearest."""
    limited = [name for name in UNITS if getattr(limits, name) is not None]
    nearest: tuple[float, str, Architecture] | None = None
    candidates, complete = _smallest_architectures(space)
    for architecture in candidates:
        try:
            cost = price(architecture)
        except MissingWorkload:
            continue
        if not limits.violations(cost):
            return architecture
        excess, worst = max((getattr(cost, name) / getattr(limits, name), name) for name in limited)
        if nearest is None or excess < nearest[0]:
            nearest = excess, worst, architecture
    if nearest is None:
        raise InfeasibleBudget("the search space is empty: widen its stages, depth or doublings")
    _, worst, architecture = nearest
    cost, code = price(architecture), encode(architecture)
    value, limit = getattr(cost, worst), getattr(limits, worst)
    whole = "" if complete else f" (of {EXAMINED_MAX} of the smallest that were looked at)"
    if limited == [worst]:
        raise InfeasibleBudget(
            f"no architecture of the search space is within {limit:g} {UNITS[worst]}: "
            f"the smallest reachable is {value:.4g} {UNITS[worst]} ({code}){whole}"
        )
    raise InfeasibleBudget(
        f"no architecture of the search space is within all limits together; {worst} binds: the nearest is "
        f"{code} with {', '.join(limits.violations(cost))}{whole}"
    )


def _smallest_architectures(space: SearchSpace) -> tuple[list[Architecture], bool]:
    """Those that `_irreducible` gives, and whether that is all of them; where there are too many, half of
    what is looked at is drawn at random from the shallowest."""
    found = list(islice(_irreducible(space), EXAMINED_MAX + 1))
    if len(found) <= EXAMINED_MAX:
        return found, True
    shallowest = replace(space, depth=(space.depth[0], space.depth[0]))
    rng = np.random.default_rng(0)
    half = EXAMINED_MAX // 2
    return [*found[:half], *(shallowest.sample(rng) for _ in range(half))], False


def _irreducible(space: SearchSpace) -> Iterator[Architecture]:
    """The architectures from which no block can be taken without leaving the space, shallow ones first.

    A block that keeps the width and opens no stage costs something of everything and can be spared, unless
    the depth would fall below the space's. So where anything fits a budget, one of these does.
    """
    least, most = space.depth[0], max(space.depth[0], space.stages[1] + space.doublings[1])
    counts = product(
        range(least, min(most, space.depth[1]) + 1),
        range(space.stages[0], space.stages[1] + 1),
        range(space.doublings[0], space.doublings[1] + 1),
    )
    for depth, stages, doublings in counts:
        if depth < max(stages, doublings) or least < depth > stages + doublings:
            continue
        for cuts, doubled in product(
            combinations(range(1, depth), stages - 1), combinations(range(depth), doublings)
        ):
            if depth > least and len({0, *cuts, *doubled}) < depth:
                continue
            rows = tuple(
                Stage(tuple(i in doubled for i in range(a, b))) for a, b in pairwise([0, *cuts, depth])
            )
            for block in space.blocks:
                yield Architecture(block, space.base_channels, space.deep_stem, rows)


def _complete_paths(
    space: SearchSpace,
    block: Block,
    additive: Callable[[Workload], float],
    detector: Detector,
    size: Size,
) -> list[tuple[float, tuple[tuple[bool, ...], ...]]]:
    """Per number of stages the cheapest detector: its cost and where its blocks double."""
    # A path may wander where no architecture of the space is; nothing there is measured, nor needed.
    memo = {key: additive(load) for key, load in closed_set(space, detector, size).items()}

    def value(load: Workload) -> float:
        return memo.get(load.key, math.inf)

    def channels(doublings: int) -> int:
        return space.base_channels * block.expansion << doublings

    @cache
    def step(stage: int, doublings: int, double: bool, first: bool) -> float:
        stem = stage == 0 and first
        in_channels = space.base_channels if stem else channels(doublings)
        stride = 2 if first and stage else 1
        planes = space.base_channels << (doublings + double)
        at = halved(size, 1 + stage) if stride == 2 else halved(size, 2 + stage)
        return value(ResidualBlock(block, in_channels, planes, stride, at))

    @cache
    def lateral(stage: int, doublings: int) -> float:
        if stage < detector.first_stage:
            return 0.0
        return value(Lateral(channels(doublings), detector.neck_channels, halved(size, 2 + stage)))

    start = value(Overhead()) + value(Stem(space.base_channels, space.deep_stem, size))
    frontier = {
        (0, int(double)): _Path(start + step(0, 0, double, True), ((double,),))
        for double in (False, True)
        if double <= space.doublings[1]
    }
    complete: dict[int, _Path] = {}
    for depth in range(1, space.depth[1] + 1):
        for (stage, doublings), path in frontier.items():
            total = path.cost + lateral(stage, doublings)
            inside = space.stages[0] <= stage + 1 <= space.stages[1] and depth >= space.depth[0]
            if inside and space.doublings[0] <= doublings <= space.doublings[1]:
                heads = sum(value(load) for load in head_workloads(detector, stage + 1, size))
                if stage not in complete or total + heads < complete[stage].cost:
                    complete[stage] = _Path(total + heads, path.stages)
        following: dict[tuple[int, int], _Path] = {}
        for (stage, doublings), path in frontier.items():
            for double in (False, True):
                if doublings + double > space.doublings[1]:
                    continue
                grown = (*path.stages[:-1], (*path.stages[-1], double))
                options = [(stage, path.cost + step(stage, doublings, double, False), grown)]
                if stage + 1 < space.stages[1]:
                    opened = path.cost + lateral(stage, doublings) + step(stage + 1, doublings, double, True)
                    options.append((stage + 1, opened, (*path.stages, (double,))))
                for at, total, stages in options:
                    key = (at, doublings + double)
                    if key not in following or total < following[key].cost:
                        following[key] = _Path(total, stages)
        frontier = following
    return [(path.cost, path.stages) for path in complete.values()]
