from __future__ import annotations

import numpy as np
import pytest

from profilers.costs import Cost, cost, failure, is_settled, row
from profilers.manifest import Probe, Workload
from profilers.measurements import Loaded, Timing
from profilers.stats import LatencyStats, Slope

CHAIN = Workload(key="b", probes=(Probe(count=1, parts=("b",)), Probe(count=4, parts=("b",) * 4)))


def centres(one: float, four: float, ci: float) -> dict[tuple[str, ...], tuple[float, float]]:
    return {("b",): (one, ci), ("b",) * 4: (four, ci)}


def test_cost_is_the_slope_and_names_the_largest_network() -> None:
    found = cost(CHAIN, centres(2.0, 5.0, 0.0))
    assert found == Cost(Slope(1.0, 0.0, None), ("b",) * 4, 5.0)


def test_missing_network_gives_no_cost() -> None:
    assert cost(CHAIN, {("b",): (1.0, 0.1)}) is None


def test_settled_when_precise_or_negligible() -> None:
    assert is_settled(CHAIN, centres(2.0, 5.0, 0.01), target_ci=0.01)
    assert not is_settled(CHAIN, centres(2.0, 5.0, 0.1), target_ci=0.01)
    assert is_settled(CHAIN, centres(5.0, 5.0, 0.001), target_ci=0.01)


def timing(weights_bytes: int | None = 10) -> Timing:
    return Timing(Loaded(0.1, weights_bytes), bursts=[np.ones(2)], positions=[0])


@pytest.mark.parametrize(("value", "status"), [(-0.1, "ok"), (-0.24, "ok"), (-0.3, "failed"), (0.1, "ok")])
def test_negative_cost_is_kept_within_noise_and_additivity_only(value: float, status: str) -> None:
    stats = LatencyStats.from_samples([1.0, 1.0])
    workload = Workload(key="b", probes=(Probe(count=1, parts=("b",)),))
    slope = Cost(Slope(value, 0.2, None), ("b",), 1.0)
    found = row(workload, slope, {("b",): timing()}, stats, reference_ms=2.0, rebuild_cv=None)
    assert found.status == status
    assert found.latency_ms == (2 * value if status == "ok" else None)
    assert (found.reason is None) == (status == "ok")


@pytest.mark.parametrize(("weights", "expected"), [((30, 90), 20), ((30, None), None)])
def test_weights_are_those_of_the_workload(weights: tuple[int, int | None], expected: int | None) -> None:
    stats = LatencyStats.from_samples([1.0, 1.0])
    timings = {("b",): timing(weights[0]), ("b",) * 4: timing(weights[1])}
    found = row(CHAIN, Cost(Slope(1.0, 0.1, None), ("b",) * 4, 5.0), timings, stats, 1.0, None)
    assert found.weights_bytes == expected


def test_failures_say_which_network_and_why() -> None:
    good = {("b",): timing()}
    assert (
        failure(CHAIN, good | {("b",) * 4: Timing(reason="no kernel")}) == "network b + b + b + b: no kernel"
    )
    broken = Timing(reason="device error", bursts=[np.ones(2)], positions=[0])
    assert failure(CHAIN, good | {("b",) * 4: broken}) == "network b + b + b + b: device error"
    assert failure(CHAIN, {}) == "network b: not measured"
    hot = Timing(throttled_bursts=2, throttled_runs=9)
    assert "all 9 runs were throttled" in failure(CHAIN, good | {("b",) * 4: hot})
