"""Whether a budget can be met at all, and the smallest cost a search space can reach under a table.

Latency, MACs and parameters are sums over blocks, so their smallest values come from an exact
shortest path over (stage, doublings, blocks): milliseconds of work, however large the space. Several
limits at once are weighed against each other: the smallest weighted sum of all costs, as shares of
their limits, either is an architecture that fits or proves that there is none (Lagrangian relaxation).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import BYTES_PER_ELEMENT, MIB, head_workloads
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.pricer import Pricer
from spnas_hw.cost.workload import Lateral, Overhead, ResidualBlock, Size, Stem, Workload, halved
from spnas_hw.errors import InfeasibleBudget, MissingWorkload
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.codec import encode
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace

WEIGHINGS = 24
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


def find_feasible(
    budget: Budget,
    space: SearchSpace,
    detector: Detector,
    size: Size,
    table: Mapping[str, float] | None,
    precision: str = "fp32",
    headroom: float = 0.0,
) -> Architecture:
    """An architecture of the space that keeps every limit. `headroom`: the share of the latency that
    predictions must leave free.

    Raises:
        InfeasibleBudget: the limit that binds, and the smallest reachable value.
        ValueError: a latency budget without a table.
    """
    if budget.latency_ms is not None and table is None:
        raise ValueError("a latency budget needs a latency table")
    space = budget.within(space)
    limits = budget.with_headroom(headroom)
    price = Pricer(detector, size, table if budget.latency_ms else None, precision)
    costs = _additive(limits, table, precision)
    seen: list[Architecture] = []
    for name, additive in costs.items():
        low = smallest(space, additive, detector, size)
        if math.isinf(low.value):
            raise MissingWorkload(
                key for key in closed_set(space, detector, size) if key not in (table or {})
            )
        cost = price(low.architecture)
        if not limits.violations(cost):
            return low.architecture
        # Weights alone are a proven lower bound of memory; what is reported is known to be reachable.
        proven = low.value > getattr(limits, name)
        if proven:
            raise InfeasibleBudget(_alone(name, budget, headroom, getattr(cost, name), low.architecture))
        seen.append(low.architecture)
    for additive in (lambda load: load.macs, lambda load: load.params):  # also small in activations
        architecture = smallest(space, additive, detector, size).architecture
        try:
            if not limits.violations(price(architecture)):
                return architecture
        except MissingWorkload:
            continue
    return _weigh(limits, space, detector, size, costs, price, seen)


def _additive(
    limits: Budget, table: Mapping[str, float] | None, precision: str
) -> dict[str, Callable[[Workload], float]]:
    """What to sum over workloads for each limit that is set; of memory, the weights."""
    sums: dict[str, Callable[[Workload], float]] = {
        "latency_ms": lambda load: (table or {}).get(load.key, math.inf),
        "macs": lambda load: load.macs,
        "params": lambda load: load.params,
        "memory_mb": lambda load: load.params * BYTES_PER_ELEMENT[precision] / MIB,
    }
    return {name: additive for name, additive in sums.items() if getattr(limits, name) is not None}


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


def _weigh(
    limits: Budget,
    space: SearchSpace,
    detector: Detector,
    size: Size,
    costs: Mapping[str, Callable[[Workload], float]],
    price: Pricer,
    seen: list[Architecture],
) -> Architecture:
    """An architecture that keeps all limits together, or InfeasibleBudget with the nearest one."""

    def ratios(architecture: Architecture) -> dict[str, float]:
        cost = price(architecture)
        return {name: getattr(cost, name) / getattr(limits, name) for name in costs}

    weights = dict.fromkeys(costs, 1.0 / len(costs))
    for _ in range(WEIGHINGS):
        shares = {name: weight / getattr(limits, name) for name, weight in weights.items()}

        def weighed(load: Workload, shares: Mapping[str, float] = shares) -> float:
            return sum(share * costs[name](load) for name, share in shares.items())

        low = smallest(space, weighed, detector, size)
        if not limits.violations(price(low.architecture)):
            return low.architecture
        seen.append(low.architecture)
        if low.value > 1:
            break  # a mean of ratios above 1 has one above 1, whatever the architecture
        over = ratios(low.architecture)
        raised = {name: weight * 2.0 ** (4 * (over[name] - 1)) for name, weight in weights.items()}
        weights = {name: weight / sum(raised.values()) for name, weight in raised.items()}
    nearest = min(seen, key=lambda architecture: max(ratios(architecture).values()))
    worst = max(ratios(nearest).items(), key=lambda item: item[1])[0]
    broken = ", ".join(limits.violations(price(nearest)))
    raise InfeasibleBudget(
        f"no architecture of the search space was found within all limits together; {worst} binds: "
        f"the nearest is {encode(nearest)} with {broken}"
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
