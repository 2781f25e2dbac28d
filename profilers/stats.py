"""From timing samples to numbers: latency statistics, confidence intervals, the slope of a chain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from profilers.errors import MeasurementFailed

_Z = 1.959964  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True)
class LatencyStats:
    """Statistics of latency samples, ms. Percentiles interpolate linearly between samples."""

    count: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    coefficient_of_variation: float  # standard deviation / mean
    median_ci_ms: (
        float  # half width of the 95 % confidence interval of the median, samples taken as independent
    )

    @classmethod
    def from_samples(cls, samples_ms: ArrayLike) -> LatencyStats:
        """Raises MeasurementFailed: no samples, or one that is not a positive finite number."""
        samples = checked(samples_ms)
        p10, median, p90, p99 = np.percentile(samples, [10, 50, 90, 99])
        variation = samples.std() / samples.mean()
        return cls(
            count=samples.size,
            median_ms=float(median),
            p10_ms=float(p10),
            p90_ms=float(p90),
            p99_ms=float(p99),
            coefficient_of_variation=float(variation),
            median_ci_ms=median_ci(samples),
        )


@dataclass(frozen=True)
class Slope:
    """Least-squares line through (count, latency).

    `residual` is the root mean square distance of the mean latency at each count from the line, as a fraction
    of the largest latency: 0 where costs add up exactly. None: fewer than three counts leave nothing to test.
    """

    slope_ms: float
    ci_ms: float  # half width of the 95 % confidence interval, propagated from those of the latencies
    residual: float | None


def slope(counts: Sequence[int], latencies_ms: Sequence[float], ci_ms: Sequence[float]) -> Slope:
    """Cost per count; with a single point latency / count.

    Args:
        counts: occurrences of the workload in each network; two of them differ, or there is one point, not 0.
        latencies_ms: latency of each network.
        ci_ms: half width of the 95 % confidence interval of each latency.
    """
    x, y, ci = (np.asarray(values, dtype=np.float64) for values in (counts, latencies_ms, ci_ms))
    if x.size == 1:
        return Slope(float(y[0] / x[0]), float(ci[0] / x[0]), None)
    weights = (x - x.mean()) / np.square(x - x.mean()).sum()
    value = float(weights @ y)
    distinct = np.unique(x)
    residual = None
    if distinct.size > 2:
        # Means by count: several networks of one count (contexts of a transition) need not cost the same.
        means = np.array([y[x == count].mean() for count in distinct])
        line = y.mean() + value * (distinct - x.mean())
        residual = float(np.sqrt(np.square(means - line).mean()) / np.abs(y).max())
    return Slope(value, float(np.sqrt(np.square(weights * ci).sum())), residual)


def median_ci(samples: ArrayLike) -> float:
    """Half width of the 95 % confidence interval of the median, from order statistics.

    The interval runs between the ranks n/2 -+ 0.98 sqrt(n) (normal approximation of the binomial;
    W. J. Conover, Practical Nonparametric Statistics, 3.2), so no distribution is assumed. Infinite for a
    single sample; below six samples the whole range stands in, which covers less than 95 %.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = ordered.size
    if n < 2:
        return math.inf
    reach = _Z * math.sqrt(n) / 2
    low, high = max(math.floor(n / 2 - reach), 0), min(math.ceil(n / 2 + reach), n - 1)
    return float(ordered[high] - ordered[low]) / 2


def burst_ms(runs_ms: NDArray[np.float64]) -> float:
    """The value of a burst: its lower quartile."""
    return float(np.percentile(checked(runs_ms), 25))


def checked(samples_ms: ArrayLike) -> NDArray[np.float64]:
    """The samples as an array. Raises MeasurementFailed: none, or one not positive and finite."""
    samples = np.asarray(samples_ms, dtype=np.float64)
    if samples.size == 0 or not np.all(np.isfinite(samples) & (samples > 0)):
        raise MeasurementFailed("the timing gave no samples, or one that is not positive")
    return samples
