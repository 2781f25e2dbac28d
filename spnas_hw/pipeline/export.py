"""A trained trial -> a verified, measured bundle."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from profilers.backends import Backend, Facts, Model
from profilers.errors import BackendUnavailable
from profilers.interleaving import Settings
from profilers.whole import ModelLatency, measure_model
from spnas_hw import __version__
from spnas_hw.cost.constraints import Budget
from spnas_hw.errors import ExportError, RunError
from spnas_hw.export.bundle import read_bundle, write_bundle
from spnas_hw.export.parity import Parity, parity
from spnas_hw.pipeline.profile import backend
from spnas_hw.run import FULL_TRAINING, Run
from spnas_hw.search.journal import Trial
from spnas_hw.space.codec import decode

PARITY_IMAGES = 16
AGREEMENT = 0.999  # of detections with a partner in PyTorch; none to compare is reported as None
SLOWER = 0.05
SITTINGS = 3


@dataclass(frozen=True)
class Exported:
    """What an export gave: the folder, and the numbers in its metadata that people ask for."""

    folder: Path
    code: str
    predicted_latency_ms: float | None
    measured: ModelLatency
    parity: Parity
    engine: str | None
    note: str | None
    on_target: bool  # measured on the device and runtime that the budget is for

    @property
    def latency_ms(self) -> float:
        """What the clock said, the median: the number that is held against the budget."""
        return self.measured.raw.median_ms

    def over_budget(self, budget: Budget) -> str | None:
        """The sentence to fail with, or None when the measured latency fits."""
        limit, found = budget.latency_ms, self.latency_ms
        if limit is None or found <= limit or not self.on_target:
            return None
        return (
            f"the exported detector measures {found:.3f} ms, above the budget of {limit:g} ms "
            f"(predicted {self.predicted_latency_ms:.3f} ms): search with more headroom"
        )


def export_run(
    run: Run, baseline: bool, out: Path | None, compute_capability: str | None, fully_trained: bool = False
) -> Exported:
    """Exports the winner of a run, its trained baseline, or the network its pipeline trained fully, measured
    as its table was."""
    trial, weights = weights_of(run, baseline, fully_trained)
    home = weights.parent if baseline or fully_trained else run.folder
    return export_trial(run, trial, weights, out or home / "bundle", _backend_of(run), compute_capability)


def weights_of(run: Run, baseline: bool, fully_trained: bool) -> tuple[Trial, Path]:
    """The winner of a run, its trained baseline, or the network that was trained fully, and the folder of its
    weights. Raises RunError: there is none."""
    home, trial = run.folder / "trials", run.winner() if not (baseline or fully_trained) else None
    if baseline:
        home, trial = run.folder / "baseline", run.baseline()
    elif fully_trained:
        home, trial = run.folder / FULL_TRAINING, run.fully_trained()
    if trial is None:
        how = "no trained baseline: search with --baseline" if baseline else "no fully trained network"
        raise RunError(f"{run.folder} has {how}")
    return trial, home / f"{trial.trial_id:04d}"


def _backend_of(run: Run) -> Backend:
    """What the table was measured with; where that is not here, ONNX Runtime on the CPU."""
    table = run.provenance
    try:
        if table is not None and not table.estimated:
            gpu = None if table.threads is not None else table.device
            return backend(table.runtime, gpu, table.threads, None)
    except BackendUnavailable:
        pass  # the measurement says that it does not compare
    return backend("onnxruntime", None, None, None)


def export_trial(
    run: Run,
    trial: Trial,
    weights: Path,
    folder: Path,
    backend: Backend,
    compute_capability: str | None,
) -> Exported:
    """Exports a trained trial as a verified bundle and measures it as the table was measured.

    Args:
        weights: folder of the trial's `weights.safetensors`.
        compute_capability: of the TensorRT-RTX engine to build, e.g. "8.9"; None builds none.

    Raises:
        ExportError: the export, its agreement with PyTorch or the engine failed; nothing is written.
    """
    from spnas_hw.detection.datasets import image_paths
    from spnas_hw.detection.inference import detect, load_detector, preprocess
    from spnas_hw.export.detector import detector_onnx
    from spnas_hw.export.engine import engine_from_onnx
    from spnas_hw.export.workloads import PRECISIONS

    config = run.config
    model = load_detector(weights, decode(trial.code), config.detector)
    onnx_model = PRECISIONS[run.precision](detector_onnx(model, config.detector, config.size))
    images = [preprocess(p, config.size) for p in image_paths(config.dataset, "val")[:PARITY_IMAGES]]
    with backend:
        session = backend.load(onnx_model)
        agreement = parity(
            images,
            lambda image: detect(model, image),
            lambda image: exported_detections(session.run({"image": image})),
            config.detector.score_threshold,
        )
        session.close()
        facts = backend.describe()
        note = _not_comparable(run, facts)
        about = run.provenance
        on_target = about is None or all(
            facts[name] == getattr(about, name) for name in ("device", "runtime")
        )
        reference_ms = None if note or about is None else about.reference_ms
        measured = measure_at_table_speed(backend, onnx_model, reference_ms)
    if agreement.agreement is not None and agreement.agreement < AGREEMENT:
        raise ExportError(
            f"only {agreement.matched} of {agreement.detections} detections of the exported detector agree "
            f"with PyTorch on {agreement.images} images; {AGREEMENT:.1%} are needed"
        )
    files = {"model.onnx": onnx_model.SerializeToString()}
    engine = None
    if compute_capability is not None:
        engine = engine_from_onnx(onnx_model, compute_capability)
        files["model.engine"] = engine.content
    metadata = _metadata(run, trial) | {
        "latency": {
            "predicted_ms": trial.latency_ms,
            "prediction": None if about is None else "estimated" if about.estimated else "measured blocks",
            "clock": asdict(measured.raw),
            "at_table_speed_ms": None if note else measured.latency_ms,
            "drift": None if note else measured.drift,
            "note": note,
            "backend": facts,
        },
        "parity": {**asdict(agreement), "agreement": agreement.agreement},
        "engine": None if engine is None else {k: v for k, v in asdict(engine).items() if k != "content"},
    }
    write_bundle(folder, files, metadata)
    built = None if engine is None else f"{engine.runtime} {engine.compute_capability}, {engine.scope}"
    return Exported(folder, trial.code, trial.latency_ms, measured, agreement, built, note, on_target)


def measure_at_table_speed(
    backend: Backend, model: Model, reference_ms: float | None, settings: Settings | None = None
) -> ModelLatency:
    """Latency of a whole detector while the device is about as fast as when the table was made.

    Where the reference network is more than `SLOWER` slower than `reference_ms`, something else has the
    device: it is measured again, `SITTINGS` times in all, and what was least disturbed counts.
    """
    found: list[ModelLatency] = []
    while not found or (reference_ms and found[-1].drift > 1 + SLOWER and len(found) < SITTINGS):
        found.append(measure_model(backend, model, reference_ms=reference_ms, settings=settings))
    return min(found, key=lambda one: one.drift)


def _not_comparable(run: Run, facts: Facts) -> str | None:
    """Why a measurement here cannot be held against the table's predictions, if so."""
    table = run.provenance
    if table is None:
        return "the search had no latency table: there is nothing to compare with"
    if table.estimated:
        return "the table is estimated, not measured: there is nothing to compare with"
    for name in ("device", "runtime", "runtime_version", "threads"):
        if facts[name] != (measured := getattr(table, name)):
            return f"measured on {name} {facts[name]}, the table on {measured}: they do not compare"
    return None


def exported_detections(outputs: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The rows that are detections: padding has label -1. Raises ExportError if the NMS had not settled."""
    if not outputs["nms_converged"]:
        raise ExportError(
            "the exported NMS did not converge on a validation image: more iterations are needed"
        )
    real = outputs["labels"] >= 0
    return outputs["boxes"][real], outputs["scores"][real], outputs["labels"][real]


def _metadata(run: Run, trial: Trial) -> dict[str, Any]:
    from spnas_hw.detection.detector import PIXEL_MEAN, PIXEL_STD

    config = run.config
    height, width = config.size
    return {
        "tool_version": __version__,
        "code": trial.code,
        "trial_id": trial.trial_id,
        "iterations": trial.iterations,
        "detector": config.detector.type,
        "classes": list(config.detector.classes),
        "input": {
            "name": "image",
            "shape": [1, 3, height, width],
            "dtype": "float32",
            "colour_order": "RGB",
            "resize": "bilinear, aspect ratio not kept",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
        },
        "outputs": {
            "boxes": "[D, 4] float32: x0, y0, x1, y1 in pixels of the input image, best first",
            "scores": "[D] float32, 0 in padding rows",
            "labels": "[D] int64: index into classes, -1 in padding rows",
            "nms_converged": "[] bool: whether the suppression equals greedy NMS",
        },
        "precision": run.precision,
        "budget": asdict(run.budget),
        "metrics": trial.metrics,
        "macs": trial.macs,
        "params": trial.params,
    }


def benchmark(bundle: Path, backend: Backend) -> ModelLatency:
    """Measures the ONNX of an unaltered bundle again. Raises ExportError, MeasurementFailed."""
    read_bundle(bundle)
    with backend:
        return measure_model(backend, bundle / "model.onnx")
