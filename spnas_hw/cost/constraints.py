"""Budgets: upper limits, all hard, on what a detector costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from spnas_hw.cost.composition import Cost
from spnas_hw.errors import InfeasibleBudget
from spnas_hw.space.search_space import SearchSpace


@dataclass(frozen=True)
class Budget:
    """Upper limits, all hard; None does not limit. `latency_ms` is of the whole detector, batch 1;
    `depth` counts the blocks of the main branch, `stages` those of the arch code."""

    latency_ms: float | None = None
    memory_mb: float | None = None
    macs: float | None = None
    params: float | None = None
    depth: int | None = None
    stages: int | None = None

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

    def with_headroom(self, share: float) -> Budget:
        """The budget for predictions, which leave a share of the latency free since they err."""
        limit = self.latency_ms
        return self if limit is None else replace(self, latency_ms=limit * (1 - share))

    def within(self, space: SearchSpace) -> SearchSpace:
        """The part of the space that the limits on depth and stages leave.

        Raises:
            InfeasibleBudget: nothing is left.
        """
        for name, fewest in (
            ("stages", space.stages[0]),
            ("depth", max(space.depth[0], space.stages[0], space.doublings[0])),
        ):
            limit = getattr(self, name)
            if limit is not None and limit < fewest:
                raise InfeasibleBudget(
                    f"no architecture of the search space has {name} of {limit:g}: the smallest is {fewest}"
                )
        stages = min(space.stages[1], self.stages or space.stages[1])
        depth = min(space.depth[1], self.depth or space.depth[1])
        return replace(space, stages=(space.stages[0], min(stages, depth)), depth=(space.depth[0], depth))
