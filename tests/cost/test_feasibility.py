from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_hw.cost import feasibility
from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import cost, latency_ms, macs, params, workloads
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.feasibility import find_feasible, smallest
from spnas_hw.errors import InfeasibleBudget, MissingWorkload, SpaceExhausted
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace

DETECTOR = Detector(("pedestrian",), neck_channels=32)
SIZE = (96, 160)
SPACE = SearchSpace(
    (Block("basic"), Block("bottleneck")), base_channels=16, stages=(2, 3), depth=(3, 5), doublings=(1, 2)
)


def every_architecture(space: SearchSpace) -> list[Architecture]:
    """All of a tiny space, by brute force."""
    found = []
    for block in space.blocks:
        for depth in range(space.depth[0], space.depth[1] + 1):
            for digits in itertools.product((False, True), repeat=depth):
                for stages in range(space.stages[0], space.stages[1] + 1):
                    for cuts in itertools.combinations(range(1, depth), stages - 1):
                        bounds = [0, *cuts, depth]
                        rows = [Stage(digits[a:b]) for a, b in itertools.pairwise(bounds)]
                        architecture = Architecture(block, space.base_channels, False, tuple(rows))
                        if not space.violations(architecture):
                            found.append(architecture)
    return found


EVERYTHING = every_architecture(SPACE)


@pytest.fixture(scope="module")
def table() -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {key: float(rng.uniform(-0.01, 1)) for key in sorted(closed_set(SPACE, DETECTOR, SIZE))}


def branched(architecture: Architecture) -> Architecture:
    """With a sub-network at every stage."""
    return replace(architecture, stages=tuple(Stage(s.doubles, 1) for s in architecture.stages))


def test_closed_set_is_exactly_what_the_space_uses(table: dict[str, float]) -> None:
    used = {w.key for a in EVERYTHING for w in workloads(branched(a), DETECTOR, SIZE)}
    assert used == set(table)


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces with little slack, where not every place can be reached."""

    def ascending(low: int, high: int) -> tuple[int, int]:
        first = draw(st.integers(low, high))
        return first, draw(st.integers(first, high))

    stages, doublings = ascending(1, 4), ascending(0, 4)
    fewest = max(stages[0], doublings[0])
    depth = draw(st.integers(1, fewest)), draw(st.integers(fewest, fewest + 3))
    return SearchSpace((Block("basic"),), 16, False, stages, depth, doublings)


@settings(max_examples=60, deadline=None)
@given(spaces())
def test_closed_set_is_closed_for_any_space(space: SearchSpace) -> None:
    known = set(closed_set(space, DETECTOR, SIZE))
    rng = np.random.default_rng(0)
    for _ in range(60):
        try:
            architecture = space.sample(rng)
        except SpaceExhausted:
            return
        assert {load.key for load in workloads(branched(architecture), DETECTOR, SIZE)} <= known


def test_smallest_is_exact(table: dict[str, float]) -> None:
    everything = EVERYTHING
    for of_load, of_architecture in (
        (lambda w: latency_ms((w,), table), lambda a: latency_ms(workloads(a, DETECTOR, SIZE), table)),
        (lambda w: w.macs, lambda a: macs(workloads(a, DETECTOR, SIZE))),
        (lambda w: w.params, lambda a: params(a, DETECTOR)),
    ):
        found = smallest(SPACE, of_load, DETECTOR, SIZE)
        assert found.value == pytest.approx(min(of_architecture(a) for a in everything))
        assert of_architecture(found.architecture) == pytest.approx(found.value)
        assert SPACE.violations(found.architecture) == ()


@pytest.mark.parametrize(
    ("limit", "word"),
    [
        ({"macs": 10}, "MACs"),
        ({"params": 10}, "parameters"),
        ({"memory_mb": 0.01}, "memory"),
    ],
)
def test_an_impossible_budget_names_the_smallest_reachable(limit: dict, word: str) -> None:
    costs = {key: 0.5 for key in closed_set(SPACE, DETECTOR, SIZE)}
    with pytest.raises(InfeasibleBudget, match=rf"{word}.*smallest reachable is [\d.e+]+"):
        find_feasible(Budget(**limit), SPACE, DETECTOR, SIZE, costs)


def test_a_possible_budget_passes() -> None:
    costs = {key: 0.5 for key in closed_set(SPACE, DETECTOR, SIZE)}
    find_feasible(Budget(latency_ms=1000, memory_mb=1e4, macs=1e12, params=1e9), SPACE, DETECTOR, SIZE, costs)


def test_an_empty_space_is_infeasible() -> None:
    space = SearchSpace((Block("basic"),), stages=(1, 2), depth=(3, 3), doublings=(3, 3))
    object.__setattr__(space, "doublings", (4, 4))
    with pytest.raises(InfeasibleBudget, match="empty"):
        smallest(space, lambda load: 1.0, DETECTOR, SIZE)


def test_an_impossible_latency_names_the_budget_that_would_do() -> None:
    costs = {key: 0.5 for key in closed_set(SPACE, DETECTOR, SIZE)}
    with pytest.raises(InfeasibleBudget, match=r"within 1 ms less 10% headroom.*reachable is") as caught:
        find_feasible(Budget(latency_ms=1), SPACE, DETECTOR, SIZE, costs, headroom=0.1)
    needed = float(str(caught.value).split("budget of ")[1].split(" ")[0])
    find_feasible(Budget(latency_ms=needed), SPACE, DETECTOR, SIZE, costs, headroom=0.1)


def test_unmeasured_workloads_are_no_way_out(table: dict[str, float]) -> None:
    """A row that is missing makes its architectures unreachable, not free."""
    measured = {key: abs(value) + 0.1 for key, value in table.items()}
    low = smallest(SPACE, lambda load: measured.get(load.key, math.inf), DETECTOR, SIZE)
    gone = next(
        w.key
        for w in workloads(low.architecture, DETECTOR, SIZE)
        if w.key.startswith(("basic", "bottleneck"))
    )
    without = {key: value for key, value in measured.items() if key != gone}
    budget = Budget(latency_ms=low.value * 1.0001)
    assert find_feasible(budget, SPACE, DETECTOR, SIZE, measured) == low.architecture
    with pytest.raises(InfeasibleBudget, match="smallest reachable"):
        find_feasible(budget, SPACE, DETECTOR, SIZE, without)
    with pytest.raises(MissingWorkload):
        find_feasible(budget, SPACE, DETECTOR, SIZE, {})


def test_a_latency_budget_needs_a_table() -> None:
    with pytest.raises(ValueError, match="latency table"):
        find_feasible(Budget(latency_ms=1), SPACE, DETECTOR, SIZE, None)


@settings(max_examples=150, deadline=None)
@given(spaces(), st.data())
def test_limits_together_are_decided_as_by_brute_force(space: SearchSpace, data: st.DataObject) -> None:
    """Random limits around what exists, a device with rows that are missing: what is found fits, and what
    is refused does not exist."""
    everything = every_architecture(space)
    if not everything:
        return
    seed = data.draw(st.integers(0, 99))
    rng = np.random.default_rng(seed)
    keys = sorted(closed_set(space, DETECTOR, SIZE))
    table = {key: float(rng.uniform(0, 1)) for key in keys if rng.random() < 0.9}
    chosen = cost(data.draw(st.sampled_from(everything)), DETECTOR, SIZE, None)
    names = data.draw(
        st.lists(st.sampled_from(["macs", "params", "memory_mb", "latency_ms"]), min_size=1, unique=True)
    )
    slack = data.draw(st.floats(0.95, 1.05))
    limits = {name: (getattr(chosen, name) or len(keys) / 6) * slack for name in names}
    budget = Budget(**limits, depth=data.draw(st.none() | st.integers(space.depth[1], 60)))
    fitting = []
    for architecture in everything:
        try:
            found = cost(architecture, DETECTOR, SIZE, table)
        except MissingWorkload:
            continue
        if not budget.violations(found):
            fitting.append(architecture)
    try:
        architecture = find_feasible(budget, space, DETECTOR, SIZE, table)
    except (InfeasibleBudget, MissingWorkload):
        assert not fitting
    else:
        assert architecture in fitting


def test_memory_alone_names_the_smallest_there_is() -> None:
    space = SearchSpace((Block("basic"),), 16, False, (1, 4), (1, 3), (3, 3))
    lowest = min(cost(a, DETECTOR, (512, 960), None).memory_mb for a in every_architecture(space))
    find_feasible(Budget(memory_mb=lowest * 1.001), space, DETECTOR, (512, 960), None)
    with pytest.raises(InfeasibleBudget, match=rf"smallest reachable is {lowest:.4g} MiB of memory"):
        find_feasible(Budget(memory_mb=lowest * 0.999), space, DETECTOR, (512, 960), None)


def test_too_many_to_look_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feasibility, "EXAMINED_MAX", 6)
    with pytest.raises(InfeasibleBudget, match="of 6 of the smallest"):
        find_feasible(Budget(memory_mb=0.1), SPACE, DETECTOR, SIZE, None)


def test_limits_that_exclude_each_other_say_which_binds() -> None:
    """A device that is slow where there is little to compute."""
    slow = {
        key: 1e6 / load.macs if key.startswith(("basic", "bottleneck")) else 0.5
        for key, load in closed_set(SPACE, DETECTOR, SIZE).items()
    }
    costs = [cost(a, DETECTOR, SIZE, slow) for a in EVERYTHING]
    limits = {name: min(getattr(c, name) for c in costs) * 1.01 for name in ("latency_ms", "macs")}
    assert not any(Budget(**limits).violations(c) == () for c in costs)
    for name, limit in limits.items():
        find_feasible(Budget(**{name: limit}), SPACE, DETECTOR, SIZE, slow)
    with pytest.raises(
        InfeasibleBudget, match=r"together; (macs|latency_ms) binds: the nearest is [br]16_.* > "
    ):
        find_feasible(Budget(**limits), SPACE, DETECTOR, SIZE, slow)


def test_depth_and_stages_are_limits_like_the_others() -> None:
    found = find_feasible(Budget(depth=3, stages=2), SPACE, DETECTOR, SIZE, None)
    assert (found.depth, len(found.stages)) == (3, 2)
    alone = smallest(SPACE, lambda load: load.macs, DETECTOR, SIZE)
    with pytest.raises(InfeasibleBudget, match="MACs"):
        find_feasible(Budget(macs=alone.value * 0.99, depth=4), SPACE, DETECTOR, SIZE, None)
