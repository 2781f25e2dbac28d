from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import Cost, latency_ms, macs, params, workloads
from spnas_hw.cost.constraints import Budget, check_feasible, smallest, smallest_latency
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


@pytest.fixture(scope="module")
def table() -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {key: float(rng.uniform(-0.01, 1)) for key in sorted(closed_set(SPACE, DETECTOR, SIZE))}


def test_closed_set_is_exactly_what_the_space_uses(table: dict[str, float]) -> None:
    used = {w.key for a in every_architecture(SPACE) for w in workloads(a, DETECTOR, SIZE)}
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
        assert {load.key for load in workloads(architecture, DETECTOR, SIZE)} <= known


def test_smallest_is_exact(table: dict[str, float]) -> None:
    everything = every_architecture(SPACE)
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
        check_feasible(Budget(**limit), SPACE, DETECTOR, SIZE, costs)


def test_a_possible_budget_passes() -> None:
    costs = {key: 0.5 for key in closed_set(SPACE, DETECTOR, SIZE)}
    check_feasible(
        Budget(latency_ms=1000, memory_mb=1e4, macs=1e12, params=1e9), SPACE, DETECTOR, SIZE, costs
    )


def test_an_empty_space_is_infeasible() -> None:
    space = SearchSpace((Block("basic"),), stages=(1, 2), depth=(3, 3), doublings=(3, 3))
    object.__setattr__(space, "doublings", (4, 4))
    with pytest.raises(InfeasibleBudget, match="empty"):
        smallest(space, lambda load: 1.0, DETECTOR, SIZE)


def test_budget_violations_name_both_values() -> None:
    found = Cost(latency_ms=12.5, memory_mb=100.0, macs=10, params=10)
    assert Budget(latency_ms=13).violations(found) == ()
    assert Budget(latency_ms=12.5).violations(found) == ()
    (violation,) = Budget(latency_ms=12).violations(found)
    assert "12.5" in violation and "12" in violation
    assert len(Budget(latency_ms=1, memory_mb=1, macs=1, params=1).violations(found)) == 4


def test_an_unmeasured_latency_never_passes() -> None:
    with pytest.raises(ValueError, match="measured"):
        Budget(latency_ms=1).violations(Cost(None, 1.0, 1, 1))


def test_an_impossible_latency_names_the_budget_that_would_do() -> None:
    costs = {key: 0.5 for key in closed_set(SPACE, DETECTOR, SIZE)}
    with pytest.raises(InfeasibleBudget, match=r"within 1 ms less 10% headroom.*reachable is") as caught:
        check_feasible(Budget(latency_ms=1), SPACE, DETECTOR, SIZE, costs, headroom=0.1)
    needed = float(str(caught.value).split("budget of ")[1].split(" ")[0])
    check_feasible(Budget(latency_ms=needed), SPACE, DETECTOR, SIZE, costs, headroom=0.1)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_above_zero(value: float) -> None:
    with pytest.raises(ValueError):
        Budget(latency_ms=value)


def test_unmeasured_workloads_are_no_way_out(table: dict[str, float]) -> None:
    """A row that is missing makes its architectures unreachable, not free."""
    measured = {key: abs(value) + 0.1 for key, value in table.items()}
    low = smallest_latency(SPACE, DETECTOR, SIZE, measured)
    gone = next(
        w.key
        for w in workloads(low.architecture, DETECTOR, SIZE)
        if w.key.startswith(("basic", "bottleneck"))
    )
    without = {key: value for key, value in measured.items() if key != gone}
    assert smallest_latency(SPACE, DETECTOR, SIZE, without).value > low.value
    with pytest.raises(MissingWorkload):
        smallest_latency(SPACE, DETECTOR, SIZE, {})
