"""From measured networks to the cost of each workload: the slope over its probes, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from profilers.manifest import Network, Workload
from profilers.measurements import Timing
from profilers.stats import LatencyStats, Slope, slope
from profilers.table import Row

_NEGLIGIBLE = 0.02  # of the largest network it is in: a cost below needs no closer look
# Of the same: what a network may differ from the sum of its parts. A tiny workload between heavy ones
# can so come out negative without any fault of the measurement (weights that just fit into a cache).
_ADDITIVITY = 0.05


@dataclass(frozen=True)
class Cost:
    """What a workload costs, in units of the reference network; `network` is that of the largest count."""

    slope: Slope
    network: Network
    largest: float  # latency of the slowest of its networks, in the same unit

    @property
    def is_impossible(self) -> bool:
        """Negative, and neither by noise nor by what additivity leaves open."""
        return self.slope.slope_ms < -self.slope.ci_ms - _ADDITIVITY * self.largest


def cost(workload: Workload, centres: Mapping[Network, tuple[float, float]]) -> Cost | None:
    """Cost from the latency and confidence interval of each network; None where one is not there."""
    if any(probe.parts not in centres for probe in workload.probes):
        return None
    points = [centres[probe.parts] for probe in workload.probes]
    line = slope([probe.count for probe in workload.probes], *zip(*points, strict=True))
    network = max(workload.probes, key=lambda probe: probe.count).parts
    return Cost(line, network, max(latency for latency, _ in points))


def is_settled(workload: Workload, centres: Mapping[Network, tuple[float, float]], target_ci: float) -> bool:
    """Whether more measuring is of no use: precise enough, or too small to matter."""
    settled = cost(workload, centres)
    if settled is None:
        return True
    return settled.slope.ci_ms <= target_ci * max(abs(settled.slope.slope_ms), _NEGLIGIBLE * settled.largest)


def failure(workload: Workload, timings: Mapping[Network, Timing]) -> str:
    """Why a workload has no cost: its first network that failed, was throttled throughout, or is missing."""
    for probe in workload.probes:
        timing = timings.get(probe.parts)
        if timing is None or timing.reason is not None or not timing.bursts:
            return f"network {' + '.join(probe.parts)}: {_failure(timing)}"
    return "not measured"


def _failure(timing: Timing | None) -> str:
    if timing is not None and timing.reason is not None:
        return timing.reason
    if timing is not None and timing.throttled_bursts:
        return f"all {timing.throttled_runs} runs were throttled: cool the device"
    return "not measured"


def row(
    workload: Workload,
    cost: Cost,
    timings: Mapping[Network, Timing],
    stats: LatencyStats,
    reference_ms: float,
    rebuild_cv: float | None,
) -> Row:
    """The row of the table, in ms.

    Args:
        stats: of the network of the largest count, in units of the reference.
        rebuild_cv: of the same; None where it was not built anew.
    """
    key, timing = workload.key, timings[cost.network]
    if cost.is_impossible:
        value, ci = cost.slope.slope_ms * reference_ms, cost.slope.ci_ms * reference_ms
        reason = f"the cost is negative, {value:.4f} +- {ci:.4f} ms: profile again on a quieter device"
        return Row(key, "failed", reason=reason)
    loaded = timing.loaded
    assert loaded is not None  # a network with a cost has been loaded
    return Row(
        key,
        "ok",
        latency_ms=cost.slope.slope_ms * reference_ms,
        latency_ci_ms=cost.slope.ci_ms * reference_ms,
        chain_residual=cost.slope.residual,
        samples=stats.count,
        median_ms=stats.median_ms * reference_ms,
        p10_ms=stats.p10_ms * reference_ms,
        p90_ms=stats.p90_ms * reference_ms,
        p99_ms=stats.p99_ms * reference_ms,
        coefficient_of_variation=stats.coefficient_of_variation,
        throttled=timing.throttled_runs,
        rebuild_cv=rebuild_cv,
        build_s=round(loaded.build_s, 3),
        weights_bytes=_weights_bytes(workload, timings),
        activation_bytes=loaded.activation_bytes,
        device_bytes=loaded.device_bytes,
        energy_mj=timing.energy_mj,
        note=timing.note,
    )


def _weights_bytes(workload: Workload, timings: Mapping[Network, Timing]) -> int | None:
    """Weights of the workload itself, by the same arithmetic as its cost."""
    loaded = [timings[probe.parts].loaded for probe in workload.probes]
    sizes = [None if network is None else network.weights_bytes for network in loaded]
    known = [float(size) for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    counts = [probe.count for probe in workload.probes]
    return max(round(slope(counts, known, [0.0] * len(known)).slope_ms), 0)
