from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.errors import MeasurementFailed
from profilers.stats import LatencyStats, median_ci, slope


def test_statistics_of_a_known_sample() -> None:
    stats = LatencyStats.from_samples(np.arange(1.0, 102.0))
    assert (stats.count, stats.median_ms, stats.p10_ms, stats.p90_ms, stats.p99_ms) == (
        101,
        51.0,
        11.0,
        91.0,
        100.0,
    )
    assert stats.coefficient_of_variation == pytest.approx(np.std(np.arange(1, 102)) / 51)


@pytest.mark.parametrize("samples", [[], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [math.inf]])
def test_unusable_samples_are_refused(samples: list[float]) -> None:
    with pytest.raises(MeasurementFailed):
        LatencyStats.from_samples(samples)


@given(st.integers(8, 60), st.integers(0, 1000))
def test_interval_of_the_median_has_about_its_coverage(count: int, seed: int) -> None:
    samples = np.random.default_rng(seed).standard_normal((400, count))
    ordered = np.sort(samples, axis=1)
    reach = 1.96 * math.sqrt(count) / 2
    low = ordered[:, max(math.floor(count / 2 - reach), 0)]
    high = ordered[:, min(math.ceil(count / 2 + reach), count - 1)]
    assert np.mean((low <= 0) & (high >= 0)) > 0.9
    assert median_ci(samples[0]) == pytest.approx((high[0] - low[0]) / 2)


def test_one_sample_says_nothing_about_its_median() -> None:
    assert median_ci([3.0]) == math.inf


@given(st.floats(-5, 5), st.floats(0.1, 5), st.lists(st.integers(0, 9), min_size=2, max_size=6, unique=True))
def test_slope_of_an_exact_line(cost: float, overhead: float, counts: list[int]) -> None:
    line = slope(counts, [overhead + cost * n for n in counts], [0.0] * len(counts))
    assert line.slope_ms == pytest.approx(cost, abs=1e-9)
    assert line.ci_ms == 0
    assert line.residual == (None if len(counts) < 3 else pytest.approx(0, abs=1e-9))


def test_transition_costs_what_exceeds_the_mean_of_its_contexts() -> None:
    line = slope([1, 0, 0], [10.0, 4.0, 6.0], [0.1, 0.2, 0.2])
    assert line.slope_ms == pytest.approx(10 - (4 + 6) / 2)
    assert line.ci_ms == pytest.approx(math.sqrt(0.1**2 + 0.1**2 + 0.1**2))
    assert line.residual is None  # contexts of different cost are no deviation from a line


def test_single_probe_is_divided_by_its_count() -> None:
    line = slope([4], [10.0], [0.4])
    assert (line.slope_ms, line.ci_ms, line.residual) == (2.5, 0.1, None)


def test_bent_chain_has_a_residual() -> None:
    residual = slope([1, 2, 4], [1.0, 2.0, 8.0], [0.0] * 3).residual
    assert residual is not None and residual > 0.05


def test_interval_of_a_slope_is_propagated() -> None:
    rng = np.random.default_rng(0)
    sigma = np.array([0.1, 0.2, 0.3])
    drawn = [
        slope([1, 2, 4], 1 + np.array([1, 2, 4]) + sigma * rng.standard_normal(3), [0] * 3)
        for _ in range(4000)
    ]
    spread = np.std([line.slope_ms for line in drawn])
    assert slope([1, 2, 4], [2, 3, 5], list(1.96 * sigma)).ci_ms == pytest.approx(1.96 * spread, rel=0.05)
