"""How a manifest becomes a latency table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np

from profilers.backends import Backend, Facts, Session, without_cache
from profilers.calibration import Calibration, calibration
from profilers.condition import condition_facts
from profilers.costs import Cost, cost, failure, is_settled, row
from profilers.environment import machine_facts, package_version
from profilers.errors import InvalidTable, TableMismatch
from profilers.interleaving import Centres, Group, Progress, Settings, Sitting
from profilers.manifest import Manifest, Network, Workload
from profilers.measurements import Engine, Measurements
from profilers.stats import LatencyStats
from profilers.table import LatencyTable, Provenance, Row, table_name


def measure_manifest(
    manifest: Manifest,
    backend: Backend,
    out: Path,
    *,
    settings: Settings | None = None,
    again: bool = False,
    progress: Progress = lambda done, total: None,
) -> Path:
    """Measure every workload; write the table to `out / <name of the table>` and return that folder.

    A table of the same manifest, backend and versions that lies there already is returned as it is, unless
    `again`. Until the table is there, every burst is kept in `out / <name>.measurements.jsonl`, and calling
    again goes on from it. A network that fails makes its workloads failed rows. A cost that is negative
    beyond its confidence interval is measured again, `settings.attempts` times in all, and then fails.
    Where the reference network fails too the device is lost: there is no table, and calling again goes on.

    Args:
        backend: entered.

    Raises:
        TableMismatch: the folder of the table holds one of another search space.
        InvalidTable: there are measurements of another manifest, backend or settings.
        MeasurementFailed: the reference network itself does not run.
        ProfilerError: another process measures the same.
    """
    settings = settings or Settings()
    facts = backend.describe()
    folder = out / _name(manifest, facts)
    if _is_measured(folder, manifest, facts) and not again:
        return folder
    journal = out / f"{folder.name}.measurements.jsonl"
    if again and _is_of_the_table(journal, folder):
        journal.unlink()
    subject = {"manifest_sha256": manifest.sha256, "backend": facts, "settings": asdict(settings)}
    measurements = Measurements(journal, subject)
    try:
        profiling = _Profiling(manifest, backend, measurements, settings, progress)
        rows, calibrated = profiling.rows()
        provenance = _provenance(manifest, facts, measurements, calibrated)
        LatencyTable(provenance, rows).write(folder)
        measurements.remove()
    finally:
        measurements.close()
    return folder


class _Profiling:
    """The networks of one manifest on one backend, by their numbers."""

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        measurements: Measurements,
        settings: Settings,
        progress: Progress,
    ) -> None:
        self.manifest = manifest
        self.backend = backend
        self.measurements = measurements
        self.settings = settings
        self.progress = progress
        self.networks = manifest.networks()
        self.number = {network: number for number, network in enumerate(self.networks)}
        self.users: dict[Network, list[Workload]] = {network: [] for network in self.networks}
        for workload in manifest.workloads:
            for network in dict.fromkeys(probe.parts for probe in workload.probes):
                self.users[network].append(workload)
        self.wholes = {whole.parts for whole in manifest.wholes}
        self.known: dict[Network, tuple[float, float]] = {}  # centres of all groups but the present one

    def rows(self) -> tuple[tuple[Row, ...], Calibration]:
        """Measure what is not measured yet, and make the rows of the table."""
        sitting = Sitting(self.backend, self.measurements, self.settings)
        try:
            costs: dict[str, Cost | None] = {}
            pending = set(self.networks)
            for attempt in range(self.settings.attempts):
                self._measure(pending, sitting)
                costs = {workload.key: cost(workload, self.known) for workload in self.manifest.workloads}
                pending = self._impossible(costs)
                if not pending or attempt + 1 == self.settings.attempts:
                    break
                self.measurements.forget((self.number[network], 0) for network in pending)
            rebuild_cv = self._rebuild(costs, sitting)
        finally:
            sitting.close()
        rows = tuple(self._row(w, costs[w.key], rebuild_cv) for w in self.manifest.workloads)
        return self._calibrated(rows)

    def _measure(self, pending: set[Network], sitting: Sitting) -> None:
        done = len(self.networks) - len(pending)
        energy_of = {max(w.probes, key=lambda probe: probe.count).parts for w in self.manifest.workloads}
        self.progress(done, len(self.networks))
        for networks in network_groups(self.manifest, pending, self.settings):
            group = Group(sitting, self._load)
            engines = [(self.number[network], 0) for network in networks]
            count = len(networks)
            try:
                group.measure(engines, self._is_settled, partial(self._tell, done, count))
                group.measure_energy([(self.number[n], 0) for n in networks if n in energy_of])
            finally:
                group.close()
            self._learn(engines)
            done += count

    def _tell(self, done: int, count: int, part: float) -> None:
        self.progress(done + part * count, len(self.networks))

    def _rebuild(self, costs: Mapping[str, Cost | None], sitting: Sitting) -> dict[Network, float]:
        """Coefficient of variation over builds of the largest networks of a sample of rows."""
        found = sorted(
            (cost for cost in costs.values() if cost and not cost.is_impossible),
            key=lambda cost: cost.slope.slope_ms,
        )
        count = min(self.settings.rebuilt_rows, len(found)) if self.settings.rebuilds else 0
        chosen = [found[i] for i in np.linspace(0, len(found) - 1, count).round().astype(int)]
        networks = list(dict.fromkeys(cost.network for cost in chosen))
        variation: dict[Network, float] = {}
        for network in networks:
            number = self.number[network]
            builds = [(number, 1 + build) for build in range(self.settings.rebuilds)]
            group = Group(sitting, self._load)
            try:
                with without_cache(self.backend):  # an engine from a cache would be the same again
                    group.measure(builds, lambda engine, centres: True)
            finally:
                group.close()
            centres = [self.measurements.centre(engine) for engine in ((number, 0), *builds)]
            latencies = np.array([centre[0] for centre in centres if centre])
            if latencies.size > 1:
                variation[network] = float(latencies.std(ddof=1) / latencies.mean())
        return variation

    def _row(self, workload: Workload, cost: Cost | None, rebuild_cv: Mapping[Network, float]) -> Row:
        timings = {network: self.measurements.timing((number, 0)) for network, number in self.number.items()}
        if cost is None:
            return Row(workload.key, "failed", reason=failure(workload, timings))
        stats = LatencyStats.from_samples(self.measurements.samples((self.number[cost.network], 0)))
        reference_ms = self.measurements.median_reference_ms()
        return row(workload, cost, timings, stats, reference_ms, rebuild_cv.get(cost.network))

    def _calibrated(self, rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], Calibration]:
        """The rows with corrections by the whole networks of the manifest."""
        reference_ms = self.measurements.median_reference_ms()
        measured = {row.key: row.latency_ms for row in rows if row.latency_ms is not None}
        wholes = [
            (whole.workloads, self.known[whole.parts][0] * reference_ms)
            for whole in self.manifest.wholes
            if whole.parts in self.known
        ]
        found = calibration(measured, wholes)
        return tuple(replace(row, correction_ms=found.corrections.get(row.key)) for row in rows), found

    def _impossible(self, costs: Mapping[str, Cost | None]) -> set[Network]:
        """Networks of the workloads whose cost cannot be."""
        return {
            probe.parts
            for workload in self.manifest.workloads
            if (found := costs[workload.key]) and found.is_impossible
            for probe in workload.probes
        }

    def _learn(self, engines: Sequence[Engine]) -> None:
        for engine in engines:
            centre = self.measurements.centre(engine)
            if centre is None:
                self.known.pop(self.networks[engine[0]], None)
            else:
                self.known[self.networks[engine[0]]] = centre

    def _load(self, engine: Engine) -> Session:
        return self.backend.load(self.manifest.load_network(self.networks[engine[0]]))

    def _is_settled(self, engine: Engine, centres: Centres) -> bool:
        """Whether every workload that this network serves is precise enough, with what is known so far."""
        known = self.known | {self.networks[number]: centre for (number, _), centre in centres.items()}
        network = self.networks[engine[0]]
        if network in self.wholes and known[network][1] > self.settings.target_ci * known[network][0]:
            return False
        users = self.users[network]
        return all(is_settled(workload, known, self.settings.target_ci) for workload in users)


def network_groups(manifest: Manifest, pending: set[Network], settings: Settings) -> Iterator[list[Network]]:
    """Part the pending networks into groups that are open together, workloads that share networks in one.

    What no earlier group holds of a workload stays together, also where that exceeds the bounds: a cost is a
    difference, and differences are what interleaving keeps true. A context that many workloads share is in
    one group only; the reference network links it to the others.
    """
    sizes = manifest.part_bytes()
    together = [{probe.parts for probe in workload.probes} for workload in manifest.workloads]
    together += [{whole.parts} for whole in manifest.wholes]
    waiting = [networks & pending for networks in together]
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


def _name(manifest: Manifest, facts: Facts) -> str:
    threads = facts["threads"]
    return table_name(
        str(facts["device"]),
        str(facts["runtime"]),
        manifest.precision,
        manifest.batch,
        manifest.input_height,
        manifest.input_width,
        threads=None if threads is None else int(threads),
    )


def _is_measured(folder: Path, manifest: Manifest, facts: Facts) -> bool:
    """Whether the folder holds a table of the same subject.

    Raises TableMismatch: it holds a table of another search space.
    """
    try:
        found = LatencyTable.read(folder).provenance
    except InvalidTable:
        return False  # none, or one that nobody can use
    if found.space_hash != manifest.space_hash:
        raise TableMismatch(f"{folder} holds the table of another search space: choose another folder")
    same = {key: facts[key] for key in _OWN_FACTS} == {key: getattr(found, key) for key in _OWN_FACTS}
    others = {key: value for key, value in facts.items() if key not in _OWN_FACTS}
    return same and found.manifest_sha256 == manifest.sha256 and others.items() <= found.environment.items()


def _is_of_the_table(journal: Path, folder: Path) -> bool:
    """Whether the measurements are those that became the table: a process ended before it removed them."""
    table = folder / "table.csv"
    return journal.exists() and table.exists() and journal.stat().st_mtime_ns <= table.stat().st_mtime_ns


_OWN_FACTS = ("device", "runtime", "runtime_version", "threads")
"""Facts of a backend that have a field of their own in the provenance."""


def _provenance(
    manifest: Manifest, facts: Facts, measurements: Measurements, calibrated: Calibration
) -> Provenance:
    threads = facts["threads"]
    others = {key: value for key, value in facts.items() if key not in _OWN_FACTS}
    return Provenance(
        device=str(facts["device"]),
        runtime=str(facts["runtime"]),
        runtime_version=str(facts["runtime_version"]),
        precision=manifest.precision,
        batch=manifest.batch,
        input_height=manifest.input_height,
        input_width=manifest.input_width,
        threads=None if threads is None else int(threads),
        reference_ms=measurements.median_reference_ms(),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        space_hash=manifest.space_hash,
        manifest_sha256=manifest.sha256,
        tool_version=package_version("spnas-hw") or "unknown",
        calibration_networks=calibrated.networks,
        error_of_sums=calibrated.error_of_sums,
        error_left_out=calibrated.error_left_out,
        environment=machine_facts() | others | condition_facts(measurements.conditions),
    )
