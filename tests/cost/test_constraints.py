from __future__ import annotations

import pytest

from spnas_hw.cost.composition import Cost
from spnas_hw.cost.constraints import Budget
from spnas_hw.errors import InfeasibleBudget
from spnas_hw.space.architecture import Block
from spnas_hw.space.search_space import SearchSpace

SPACE = SearchSpace((Block("basic"),), stages=(4, 6), depth=(8, 20), doublings=(3, 3))


def test_budget_violations_name_both_values() -> None:
    found = Cost(12.5, memory_mb=100.0, macs=10, params=10, depth=8, stages=4)
    assert Budget(latency_ms=13).violations(found) == ()
    assert Budget(latency_ms=12.5).violations(found) == ()
    (violation,) = Budget(latency_ms=12).violations(found)
    assert "12.5" in violation and "12" in violation
    assert len(Budget(1, 1, 1, 1, 1, 1).violations(found)) == 6


def test_an_unmeasured_latency_never_passes() -> None:
    with pytest.raises(ValueError, match="measured"):
        Budget(latency_ms=1).violations(Cost(None, 1.0, 1, 1, 8, 4))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_above_zero(value: float) -> None:
    with pytest.raises(ValueError):
        Budget(latency_ms=value)


def test_limits_on_depth_and_stages_narrow_the_space() -> None:
    assert Budget().within(SPACE) == SPACE
    assert Budget(depth=10, stages=4).within(SPACE).depth == (8, 10)
    assert Budget(depth=10, stages=4).within(SPACE).stages == (4, 4)
    assert Budget(depth=100, stages=100).within(SPACE) == SPACE


@pytest.mark.parametrize(("limit", "smallest"), [({"depth": 7}, 8), ({"stages": 3}, 4)])
def test_too_few_name_the_smallest(limit: dict, smallest: int) -> None:
    with pytest.raises(InfeasibleBudget, match=f"{next(iter(limit))}.*the smallest is {smallest}"):
        Budget(**limit).within(SPACE)


def test_headroom_is_of_the_latency_only() -> None:
    assert Budget(latency_ms=40, macs=10).with_headroom(0.1) == Budget(latency_ms=36, macs=10)
    assert Budget(macs=10).with_headroom(0.1) == Budget(macs=10)
