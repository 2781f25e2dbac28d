"""How a manifest becomes a latency table, and how one whole network is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np

from profilers.backends import Backend, Facts, Model, Session
from profilers.costs import Cost, is_settled, measured_costs, row
from profilers.environment import machine_facts, package_version
from profilers.errors import MeasurementFailed
from profilers.interleaving import Group, Reference, Settings, Timing
from profilers.manifest import Manifest, Network
from profilers.measurements import Measurement, Measurements
from profilers.stats import LatencyStats
from profilers.table import LatencyTable, Provenance, table_name

Progress = Callable[[float, int], None]
"""Told (networks done, networks in all); the first grows by fractions within a group."""


@dataclass(frozen=True)
class ModelLatency:
    """Latency of one whole network.

    `raw` is what the clock said. `normalised`, `latency_ms` and `latency_ci_ms` are at the speed the device
    had when `reference_ms` was measured; `latency_ms` is reckoned as the costs in a table are, to compare.
    """

    raw: LatencyStats
    normalised: LatencyStats
    latency_ms: float
    latency_ci_ms: float
    reference_ms: float
    drift: float  # reference network now / reference_ms; 1.02: the device is 2 % slower than then
    memory_bytes: int | None


def measure_model(
    backend: Backend, model: Model, *, reference_ms: float | None = None, settings: Settings | None = None
) -> ModelLatency:
    """Time one model beside the reference network.

    Args:
        backend: entered.
        reference_ms: latency of the reference network to normalise to, as in the provenance of a table; None:
            as it is during this measurement.

    Raises:
        MeasurementFailed: the model does not load or run.
    """
    settings = settings or Settings()
    reference = Reference(backend, settings)
    group: Group[str] = Group(reference, settings)
    try:
        group.open("model", partial(backend.load, model))
        group.measure(lambda name, centres: centres[name][1] <= settings.target_ci * centres[name][0])
    finally:
        group.close()
        reference.close()
    timing = group.timings["model"]
    if timing.reason is not None:
        raise MeasurementFailed(timing.reason)
    now_ms = float(np.median(reference.bursts_ms))
    anchor_ms = now_ms if reference_ms is None else reference_ms
    latency, ci = timing.centre(reference)
    return ModelLatency(
        raw=LatencyStats.from_samples(np.concatenate(timing.bursts)),
        normalised=LatencyStats.from_samples(timing.samples(reference) * anchor_ms),
        latency_ms=latency * anchor_ms,
        latency_ci_ms=ci * anchor_ms,
        reference_ms=anchor_ms,
        drift=now_ms / anchor_ms,
        memory_bytes=timing.memory_bytes,
    )


def measure_manifest(
    manifest: Manifest,
    backend: Backend,
    out: Path,
    *,
    settings: Settings | None = None,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure every workload; write the table to `out / <name of the table>` and return that folder.

    Until the table is there, what was measured is kept in `out / <name>.measurements.jsonl`, and calling
    again goes on from it. A network that fails makes its workloads failed rows. A cost that is negative
    beyond its confidence interval is measured again, `settings.attempts` times in all, and is then a failed
    row.

    Args:
        backend: entered.

    Raises:
        InvalidTable: there are measurements of another manifest, backend or settings.
        MeasurementFailed: the reference network itself does not run.
    """
    settings = settings or Settings()
    facts = backend.describe()
    name = _name(manifest, facts)
    subject = {"manifest_sha256": manifest.sha256, "backend": facts, "settings": asdict(settings)}
    measurements = Measurements(out / f"{name}.measurements.jsonl", subject)
    profiling = _Profiling(manifest, backend, measurements, settings, progress)
    pending = set(manifest.networks()) - set(measurements.networks)
    costs: dict[str, Cost | str] = {}
    for _ in range(settings.attempts):
        profiling.measure(pending)
        costs = measured_costs(manifest, measurements.networks)
        impossible = {key for key, cost in costs.items() if isinstance(cost, Cost) and cost.is_impossible}
        workloads = [workload for workload in manifest.workloads if workload.key in impossible]
        pending = {probe.parts for workload in workloads for probe in workload.probes}
        if not pending:
            break
    reference_ms = measurements.reference_ms
    rows = tuple(row(key, cost, measurements.networks, reference_ms) for key, cost in costs.items())
    LatencyTable(_provenance(manifest, facts, reference_ms), rows).write(out / name)
    measurements.remove()
    return out / name


@dataclass(frozen=True)
class _Profiling:
    """The networks of one manifest on one backend."""

    manifest: Manifest
    backend: Backend
    measurements: Measurements
    settings: Settings
    progress: Progress

    def measure(self, pending: set[Network]) -> None:
        """Measure these networks group by group; a group that is complete is kept."""
        total = len(self.manifest.networks())
        done = total - len(pending)
        self.progress(done, total)
        if not pending:
            return
        reference = Reference(self.backend, self.settings)
        try:
            for networks in network_groups(self.manifest, pending, self.settings):
                start = len(reference.bursts_ms)
                measured = self._measure_group(networks, reference, done)
                self.measurements.add(reference.bursts_ms[start:], measured)
                done += len(networks)
        finally:
            reference.close()

    def _measure_group(self, networks: list[Network], reference: Reference, done: int) -> list[Measurement]:
        group: Group[Network] = Group(reference, self.settings)
        total = len(self.manifest.networks())
        try:
            for network in networks:
                group.open(network, partial(self._load, network))
            group.measure(
                partial(self._is_settled, set(networks)),
                lambda part: self.progress(done + part * len(networks), total),
            )
        finally:
            group.close()
        return [_measurement(network, group.timings[network], reference) for network in networks]

    def _load(self, network: Network) -> Session:
        return self.backend.load(self.manifest.load_network(network))

    def _is_settled(
        self, group: set[Network], network: Network, centres: Mapping[Network, tuple[float, float]]
    ) -> bool:
        """Whether every workload that this network serves is precise enough, with what is known so far."""
        known = {n: m.centre for n, m in self.measurements.networks.items() if m.centre and n not in group}
        known |= centres
        users = (w for w in self.manifest.workloads if any(probe.parts == network for probe in w.probes))
        return all(is_settled(workload, known, self.settings.target_ci) for workload in users)


def network_groups(manifest: Manifest, pending: set[Network], settings: Settings) -> Iterator[list[Network]]:
    """Part the pending networks into groups that are open together, workloads that share networks in one.

    The networks of one workload stay together, also where that exceeds the bounds: its cost is a difference,
    and differences are what interleaving keeps true.
    """
    sizes = manifest.part_bytes()
    waiting = [{probe.parts for probe in workload.probes} & pending for workload in manifest.workloads]
    group: dict[Network, int] = {}  # in order, with the size of each
    grouped: set[Network] = set()
    while waiting := [fresh for networks in waiting if (fresh := networks - grouped)]:
        fresh = min(waiting, key=len)  # the first of those that share the most with the group
        added = {network: sum(sizes[key] for key in network) for network in sorted(fresh)}
        count, size = len(group) + len(added), sum(group.values()) + sum(added.values())
        if group and (count > settings.group_networks or size > settings.group_bytes):
            yield list(group)
            group = {}
        group |= added
        grouped |= fresh
    if group:
        yield list(group)


def _measurement(network: Network, timing: Timing, reference: Reference) -> Measurement:
    if timing.reason is not None:
        return Measurement(network, reason=timing.reason)
    stats = LatencyStats.from_samples(timing.samples(reference))
    return Measurement(network, *timing.centre(reference), stats, timing.memory_bytes)


def _name(manifest: Manifest, facts: Facts) -> str:
    size = (manifest.batch, manifest.input_height, manifest.input_width)
    return table_name(str(facts["device"]), str(facts["runtime"]), manifest.precision, *size)


def _provenance(manifest: Manifest, facts: Facts, reference_ms: float) -> Provenance:
    own = ("device", "runtime", "runtime_version", "threads")
    threads = facts["threads"]
    return Provenance(
        device=str(facts["device"]),
        runtime=str(facts["runtime"]),
        runtime_version=str(facts["runtime_version"]),
        precision=manifest.precision,
        batch=manifest.batch,
        input_height=manifest.input_height,
        input_width=manifest.input_width,
        threads=None if threads is None else int(threads),
        reference_ms=reference_ms,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        space_hash=manifest.space_hash,
        manifest_sha256=manifest.sha256,
        tool_version=package_version("spnas-hw") or "unknown",
        environment=machine_facts() | {key: value for key, value in facts.items() if key not in own},
    )
