"""Measures whole detectors: one that is about to be shipped, a bundle anywhere, the best of a search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profilers.backends import Backend, EngineBackend, Facts, Model, Session
from profilers.errors import BackendUnavailable
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


@dataclass(frozen=True)
class Benchmarked:
    """A bundle measured here. `budget_ms` and `exported_ms` are what its metadata say, or None; `note` says
    what is not comparable."""

    measured: ModelLatency
    facts: Facts
    budget_ms: float | None
    exported_ms: float
    on_target: bool  # on what it was exported for
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
    """What the run's table was measured with; where that is not here, ONNX Runtime on the CPU."""
    table = run.provenance
    try:
        if table is not None and not table.estimated:
            gpu = None if table.threads is not None else table.device
            return find_backend(table.runtime, gpu, table.threads, None)
    except BackendUnavailable:
        pass  # the measurement says that it does not compare
    return find_backend("onnxruntime", None, None, None)


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
            "the exported NMS did not converge on a validation image: more iterations are needed"
        )
    real = outputs["labels"] >= 0
    return outputs["boxes"][real], outputs["scores"][real], outputs["labels"][real]


def bundle_session(bundle: Path, backend: Backend) -> tuple[Session, str | None]:
    """A bundle's network in an entered backend: its own engine where that fits, else built from its ONNX;
    and why the engine was not taken, if there is one.

    Raises:
        ExportError: the bundle is damaged or was altered.
        MeasurementFailed: the runtime does not take it.
    """
    about = read_bundle(bundle)
    model, engine = read_file(bundle, ONNX), about["engine"]
    if engine is None or not isinstance(backend, EngineBackend):
        return backend.load(model), None
    if (why := _misfit(engine, backend.describe())) is not None:
        return backend.load(model), f"{why}: built anew from {ONNX}"
    return backend.load_plan(read_file(bundle, ENGINE), model), None


def _misfit(engine: dict[str, Any], facts: Facts) -> str | None:
    """Why an engine does not run here, if so."""
    free = {"runtime_version": "version_compatible", "compute_capability": "hardware"}
    for name in ("runtime", *(name for name, option in free.items() if not engine.get(option))):
        if engine[name] != facts.get(name):
            return f"the bundle's engine is for {name} {engine[name]}, here it is {facts.get(name)}"
    return None


def benchmark(bundle: Path, backend: Backend) -> Benchmarked:
    """Measures an unaltered bundle again.

    Raises:
        ExportError, MeasurementFailed, BackendUnavailable
    """
    about = read_bundle(bundle)
    notes: set[str | None] = set()

    def load(_: Model) -> Session:
        session, why = bundle_session(bundle, backend)
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
        exported["on_target"] and all(exported["backend"][name] == facts[name] for name in TARGET),
        "; ".join(sorted(filter(None, notes))) or None,
    )
