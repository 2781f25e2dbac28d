from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.cost.accuracy import accuracy, attribution, fitted_line
from spnas_hw.cost.workload import ResidualBlock
from spnas_hw.space.architecture import Block

LATENCIES = st.lists(st.floats(0.1, 100), min_size=3, max_size=30, unique=True)


def test_by_hand() -> None:
    found = accuracy([1.08, 2.0, 2.76, 8.0], [1.0, 2.0, 3.0, 4.0])
    assert found.mape == pytest.approx((0.08 + 0 + 0.08 + 1.0) / 4)
    assert found.rmspe == pytest.approx(np.sqrt((0.0064 + 0 + 0.0064 + 1.0) / 4))
    assert found.bias == pytest.approx(0.25)
    assert (found.count, found.within_5, found.within_10, found.worst) == (4, 0.25, 0.75, 1.0)
    assert (found.spearman, found.kendall) == (pytest.approx(1), pytest.approx(1))


def test_ranks_by_hand() -> None:
    found = accuracy([1.0, 3.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0])
    assert found.spearman == pytest.approx(1 - 6 * 2 / (4 * 15)) and found.kendall == pytest.approx(4 / 6)


@given(LATENCIES, st.sampled_from([0.5, 1.0, 2.0]))  # exact: no two values become one
def test_a_scale_moves_every_error_and_no_rank(measured: list[float], scale: float) -> None:
    found = accuracy([scale * value for value in measured], measured)
    assert found.mape == pytest.approx(abs(scale - 1)) == found.worst
    assert found.spearman == pytest.approx(1)


@pytest.mark.parametrize(
    ("predicted", "measured"), [([1, 2], [1, 2]), ([1, 2, 3], [1, 2]), ([1] * 3, [1, 0, 1])]
)
def test_refuses_what_has_no_accuracy(predicted: list[float], measured: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 3 pairs"):
        accuracy(predicted, measured)


@given(LATENCIES, st.floats(0.1, 10), st.floats(0, 10))
def test_a_straight_line_is_fitted_exactly(x: list[float], slope: float, intercept: float) -> None:
    measured = [intercept + slope * value for value in x]
    assert fitted_line(x, measured) == pytest.approx(measured, rel=1e-6)


def test_the_workload_that_is_wrong_is_blamed_first() -> None:
    rng = np.random.default_rng(0)
    loads = [ResidualBlock(Block("basic"), 16 * k, 16 * k, 1, (8, 8)) for k in (1, 2, 3)]
    costs = {load.key: 0.5 + i for i, load in enumerate(loads)}
    true = costs | {loads[1].key: 1.2 * costs[loads[1].key]}
    networks = [[load for load in loads for _ in range(rng.integers(1, 6))] for _ in range(25)]
    residual = [sum(true[load.key] - costs[load.key] for load in network) for network in networks]
    found = attribution(networks, costs, residual)
    assert found[0].key == loads[1].key
    assert found[0].correction_ms == pytest.approx(0.2 * costs[loads[1].key], rel=0.25)
    assert found[0].occurrences == sum(load is loads[1] for network in networks for load in network)
