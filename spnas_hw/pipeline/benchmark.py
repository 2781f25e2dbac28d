"""Measures whole detectors: one that is about to be shipped, a bundle anywhere, the best of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profilers import nvml
from profilers.backends import Backend, EngineBackend, Facts, Model, Session
from profilers.errors import MeasurementFailed
from profilers.interleaving import Settings
from profilers.whole import ModelLatency, measure_model
from spnas_hw.errors import ExportError
from spnas_hw.export.bundle import read_bundle, read_file
from spnas_hw.pipeline.profile import backend as find_backend
from spnas_hw.run import Run

SLOWER = 0.05
SITTINGS = 3
TARGET = ("device", "runtime", "threads")
"""What a budget is for."""
ONNX, ENGINE = "model.onnx", "model.engine"
AMPERE = 8.0


@dataclass(frozen=True)
class Benchmarked:
    """A bundle measured here. `budget_ms` and `exported_ms` are what its metadata say, or None; `note` says
    what is not comparable."""

    measured: ModelLatency
    facts: Facts
    budget_ms: float | None
    exported_ms: float
    on_target: bool  # on what the budget is for
    note: str | None

    def over_budget(self) -> str | None:
        """The sentence to fail with, or None when the latency fits or is of another device."""
        limit, found = self.budget_ms, self.measured.raw.median_ms
        if limit is None or found <= limit or not self.on_target:
            return None
        return f"the bundle measures {found:.3f} ms here, above its budget of {limit:g} ms"


def measure_at_table_speed(
    backend: Backend,
    model: Model,
    reference_ms: float | None,
    settings: Settings | None = None,
    load: Callable[[Model], Session] | None = None,
) -> ModelLatency:
    """Latency of a whole detector while the device is about as fast as when the table was made.

    Where the reference network is more than `SLOWER` slower than `reference_ms`, something else has the
    device: it is measured again, `SITTINGS` times in all, and what was least disturbed counts.
    """
    found: list[ModelLatency] = []
    while not found or (reference_ms and found[-1].drift > 1 + SLOWER and len(found) < SITTINGS):
        found.append(measure_model(backend, model, reference_ms=reference_ms, settings=settings, load=load))
    return min(found, key=lambda one: one.drift)


def backend_of(run: Run) -> Backend:
    """What the run's table was measured with; where that device is not here, ONNX Runtime on the CPU.

    Raises:
        BackendUnavailable: the device is here, the runtime is not.
    """
    table = run.provenance
    if table is None or table.estimated:
        return find_backend("onnxruntime", None, None, None)
    if table.threads is not None:
        return find_backend(table.runtime, None, table.threads, None)
    if (gpu := gpu_of(run)) is None:
        return find_backend("onnxruntime", None, None, None)  # the measurement says that it does not compare
    return find_backend(table.runtime, gpu, None, None)


def gpu_of(run: Run) -> str | None:
    """The name of the GPU that the run's table was measured on, where there is one here."""
    table = run.provenance
    here = {gpu.name for gpu in nvml.devices()}
    return None if table is None or table.device not in here else table.device


def target_of(run: Run) -> dict[str, Any] | None:
    """What the run's budget is for, or None without a table."""
    return None if run.provenance is None else {name: getattr(run.provenance, name) for name in TARGET}


def is_target(target: dict[str, Any] | None, facts: Facts) -> bool:
    """Whether a budget can be held against what is measured here."""
    return target is None or all(facts[name] == target[name] for name in TARGET)


def not_comparable(run: Run, facts: Facts, precision: str) -> str | None:
    """Why a measurement here cannot be held against the table's predictions, if so."""
    table = run.provenance
    if table is None:
        return "the search had no latency table: there is no prediction to compare with"
    if table.estimated:
        return "the table is estimated, not measured: there is nothing to compare with"
    for name in ("device", "runtime", "runtime_version", "threads", "precision"):
        found = precision if name == "precision" else facts[name]
        if found != (measured := getattr(table, name)):
            return f"measured on {name} {found}, the table on {measured}: they do not compare"
    return None


def exported_detections(outputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The rows that are detections: padding has label -1. Raises ExportError if the NMS had not settled."""
    if not outputs["nms_converged"]:
        raise ExportError(
            "the exported NMS did not converge on an image: train longer, or let it have fewer candidates"
        )
    real = outputs["labels"] >= 0
    return outputs["boxes"][real], outputs["scores"][real], outputs["labels"][real]


def bundle_session(bundle: Path, about: dict[str, Any], backend: Backend) -> tuple[Session, str | None]:
    """The network of a bundle, of which `about` are the metadata, in an entered backend: its own engine where
    that fits, else built from its ONNX; and why the engine was not taken, if there is one.

    Raises:
        ExportError: the bundle is damaged or was altered.
        MeasurementFailed: the runtime does not take it.
    """
    model, engine = read_file(bundle, ONNX), about["engine"]
    if engine is None or not isinstance(backend, EngineBackend):
        return backend.load(model), None
    if (why := _misfit(engine, backend.describe())) is not None:
        return backend.load(model), f"{why}: built anew from {ONNX}"
    plan = read_file(bundle, ENGINE)
    try:
        return backend.load_plan(plan, model), None
    except MeasurementFailed as error:
        return backend.load(model), f"the bundle's engine does not load ({error}): built anew from {ONNX}"


def _misfit(engine: dict[str, Any], facts: Facts) -> str | None:
    """Why an engine does not run here, if so."""
    fits = {
        "runtime": engine["runtime"] == facts["runtime"],
        "runtime_version": engine["runtime_version"] == facts["runtime_version"]
        or (bool(engine.get("version_compatible")) and _is_later(engine, facts)),
        "compute_capability": engine["compute_capability"] == facts.get("compute_capability")
        or (engine.get("hardware") == "ampere+" and float(str(facts["compute_capability"])) >= AMPERE),
    }
    for name, fit in fits.items():
        if not fit:
            return f"the bundle's engine is for {name} {engine[name]}, here it is {facts.get(name)}"
    return None


def _is_later(engine: dict[str, Any], facts: Facts) -> bool:
    """Whether the runtime here is of the same major version as the builder, and not older."""
    then, now = (
        [int(part) for part in str(version).split(".")[:3]]
        for version in (engine["runtime_version"], facts["runtime_version"])
    )
    return now[0] == then[0] and now >= then


def benchmark(bundle: Path, backend: Backend) -> Benchmarked:
    """Measures an unaltered bundle again.

    Raises:
        ExportError, MeasurementFailed, BackendUnavailable
    """
    about = read_bundle(bundle)
    notes: set[str | None] = set()

    def load(_: Model) -> Session:
        session, why = bundle_session(bundle, about, backend)
        notes.add(why)
        return session

    with backend:
        facts = backend.describe()
        measured = measure_model(backend, bundle / ONNX, load=load)
    exported = about["latency"]
    for name in TARGET:
        if (then := exported["backend"].get(name)) != facts.get(name):
            notes.add(f"exported on {name} {then}, measured on {facts.get(name)}")
    return Benchmarked(
        measured,
        facts,
        about["budget"]["latency_ms"],
        exported["clock"]["median_ms"],
        is_target(exported["target"], facts),
        "; ".join(sorted(filter(None, notes))) or None,
    )
