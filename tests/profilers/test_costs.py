from __future__ import annotations

import pytest

from profilers.costs import Cost, cost, is_settled, row
from profilers.manifest import Probe, Workload
from profilers.measurements import Measurement
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


@pytest.mark.parametrize(("value", "status"), [(-0.1, "ok"), (-0.24, "ok"), (-0.3, "failed"), (0.1, "ok")])
def test_negative_cost_is_kept_within_noise_and_additivity_only(value: float, status: str) -> None:
    stats = LatencyStats.from_samples([1.0, 1.0])
    networks = {("b",): Measurement(("b",), 1.0, 0.1, stats)}
    found = row("b", Cost(Slope(value, 0.2, None), ("b",), 1.0), networks, reference_ms=2.0)
    assert found.status == status
    assert found.latency_ms == (2 * value if status == "ok" else None)
    assert (found.reason is None) == (status == "ok")
