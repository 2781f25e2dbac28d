"""From measured networks to the cost of each workload: the slope over its probes, or why there is none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from profilers.manifest import Manifest, Network, Workload
from profilers.measurements import Measurement
from profilers.stats import Slope, slope
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


def measured_costs(manifest: Manifest, networks: Mapping[Network, Measurement]) -> dict[str, Cost | str]:
    """For each workload its cost, or the reason why it has none."""
    centres = {network: measured.centre for network, measured in networks.items() if measured.centre}
    return {
        workload.key: cost(workload, centres) or _reason(workload, networks)
        for workload in manifest.workloads
    }


def row(key: str, cost: Cost | str, networks: Mapping[Network, Measurement], reference_ms: float) -> Row:
    """The row of the table, in ms."""
    if isinstance(cost, str):
        return Row(key, "failed", reason=cost)
    if cost.is_impossible:
        value, ci = cost.slope.slope_ms * reference_ms, cost.slope.ci_ms * reference_ms
        reason = f"the cost is negative, {value:.4f} +- {ci:.4f} ms: profile again on a quieter device"
        return Row(key, "failed", reason=reason)
    measured = networks[cost.network]
    stats = measured.stats
    assert stats is not None  # a network with a cost has been measured
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
        memory_bytes=measured.memory_bytes,
    )


def _reason(workload: Workload, networks: Mapping[Network, Measurement]) -> str:
    for probe in workload.probes:
        measured = networks.get(probe.parts)
        if measured is None or measured.reason is not None:
            return f"network {' + '.join(probe.parts)}: {measured.reason if measured else 'not measured'}"
    return "not measured"
