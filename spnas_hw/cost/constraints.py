"""Budgets, and the smallest cost a search space can reach under a table.

Latency, MACs and parameters are sums over blocks, so their smallest values come from an exact
shortest path over (stage, doublings, blocks): milliseconds of work, however large the space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import BYTES_PER_ELEMENT, MIB, Cost, cost, head_workloads, params
from spnas_hw.cost.workload import Lateral, Overhead, ResidualBlock, Size, Stem, Workload, halved
from spnas_hw.errors import InfeasibleBudget, MissingWorkload
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace


@dataclass(frozen=True)
class Budget:
    """Upper limits, all hard; None does not limit. `latency_ms` is of the whole detector, batch 1."""

    latency_ms: float | None = None
    memory_mb: float | None = None
    macs: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"the budget {field.name} is {value}; it must be above 0 and finite")

    def violations(self, found: Cost) -> tuple[str, ...]:
        """Every limit that `found` exceeds, with both values; empty when it fits."""
        exceeded = []
        for field in fields(self):
            limit, value = getattr(self, field.name), getattr(found, field.name)
            if limit is None:
                continue
            if value is None:
                raise ValueError(f"a budget of {field.name} needs a measured {field.name}")
            if value > limit:
                exceeded.append(f"{field.name} {value:.4g} > {limit:.4g}")
        return tuple(exceeded)


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


def smallest_latency(
    space: SearchSpace, detector: Detector, size: Size, table: Mapping[str, float]
) -> Smallest:
    """The smallest latency of the architectures whose workloads are all in the table.

    Raises:
        MissingWorkload: there is none.
    """
    low = smallest(space, lambda load: table.get(load.key, math.inf), detector, size)
    if math.isinf(low.value):
        raise MissingWorkload(key for key in closed_set(space, detector, size) if key not in table)
    return low


def check_feasible(
    budget: Budget,
    space: SearchSpace,
    detector: Detector,
    size: Size,
    table: Mapping[str, float] | None,
    precision: str = "fp32",
    headroom: float = 0.0,
) -> None:
    """Refuse a budget that no architecture of the space can meet.

    `headroom` is the share of the latency that predictions must leave free.

    Raises:
        InfeasibleBudget: with the limit that binds and the smallest reachable value.
    """
    if budget.latency_ms is not None:
        if table is None:
            raise ValueError("a latency budget needs a latency table")
        low = smallest_latency(space, detector, size, table)
        if low.value > budget.latency_ms * (1 - headroom):
            needed = math.ceil(low.value / (1 - headroom) * 1000) / 1000
            raise InfeasibleBudget(
                f"no detector of the search space is predicted within {budget.latency_ms:g} ms less "
                f"{headroom:.0%} headroom: the smallest reachable is {low.value:.4g} ms "
                f"({encode(low.architecture)}), which needs a budget of {needed:g} ms"
            )
    if budget.macs is not None:
        _refuse_below(budget.macs, smallest(space, lambda load: load.macs, detector, size), "MACs", "")
    lightest = smallest(space, lambda load: load.params, detector, size)
    lightest = Smallest(params(lightest.architecture, detector), lightest.architecture)
    if budget.params is not None:
        _refuse_below(budget.params, lightest, "parameters", "")
    weights_mb = lightest.value * BYTES_PER_ELEMENT[precision] / MIB
    if budget.memory_mb is not None and weights_mb > budget.memory_mb:
        # Weights alone are a proven lower bound; the message names what is known to be reachable.
        reachable = cost(lightest.architecture, detector, size, None, precision).memory_mb
        _refuse_below(budget.memory_mb, Smallest(reachable, lightest.architecture), "memory", "MiB")


def _refuse_below(limit: float, low: Smallest, what: str, unit: str) -> None:
    if low.value > limit:
        raise InfeasibleBudget(
            f"no architecture of the search space has {what} of {limit:g} {unit}".rstrip()
            + f": the smallest reachable is {low.value:.4g} {unit}".rstrip()
            + f" ({encode(low.architecture)})"
        )


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

    def step(stage: int, doublings: int, double: bool, first: bool) -> float:
        stem = stage == 0 and first
        in_channels = space.base_channels if stem else channels(doublings)
        stride = 2 if first and stage else 1
        planes = space.base_channels << (doublings + double)
        at = halved(size, 1 + stage) if stride == 2 else halved(size, 2 + stage)
        return value(ResidualBlock(block, in_channels, planes, stride, at))

    def lateral(stage: int, doublings: int) -> float:
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
