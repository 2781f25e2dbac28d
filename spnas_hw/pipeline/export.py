"""A trained trial -> a verified, measured bundle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from profilers.backends import Backend, EngineBackend, Facts, Model, Session, backend_by_name
from profilers.backends.rtx import require_compute_capability
from profilers.whole import ModelLatency
from spnas_hw import __version__
from spnas_hw.cost.constraints import Budget
from spnas_hw.errors import InvalidConfig
from spnas_hw.export.bundle import programs, require_free, write_bundle
from spnas_hw.export.engine import engine_from_onnx
from spnas_hw.export.quantization import require_quantiser
from spnas_hw.pipeline import benchmark
from spnas_hw.pipeline.agreement import Agreement, Sample, compare, sample_of
from spnas_hw.pipeline.benchmark import ENGINE, ONNX, exported_detections, measure_at_table_speed
from spnas_hw.pipeline.shipped import Precision, shipped, trained_detector, weights_of
from spnas_hw.run import Run
from spnas_hw.search.journal import Trial

if TYPE_CHECKING:
    from torch import nn

CPU = "onnxruntime"


@dataclass(frozen=True)
class Request:
    """What is exported, and for what.

    Args:
        baseline, fully_trained: in place of the winner.
        out: folder of the bundle; None: in the run.
        backend: what runs, measures and, where it can, builds the engine; None: what measured the table.
        precision: None: the table's.
        compute_capability: of a TensorRT-RTX engine that is built ahead of time, e.g. "8.9".
        images: validation images that are compared with PyTorch; None: all.
        sample: picture to ship in place of a validation image, which the licence of the data may forbid.
        calibration_images: training images that INT8 finds its ranges with.
    """

    baseline: bool = False
    fully_trained: bool = False
    out: Path | None = None
    backend: Backend | None = None
    precision: Precision | None = None
    compute_capability: str | None = None
    images: int | None = 200
    sample: Path | None = None
    calibration_images: int = 128


@dataclass(frozen=True)
class Exported:
    """What an export gave: the folder, and the numbers in its metadata that people ask for."""

    folder: Path
    code: str
    precision: str
    predicted_latency_ms: float | None
    measured: ModelLatency
    agreements: dict[str, Agreement]  # by runtime, the one that was measured last
    engine: str | None
    note: str | None
    on_target: bool  # measured on what the budget is for

    @property
    def latency_ms(self) -> float:
        """What the clock said, the median: the number that is held against the budget."""
        return self.measured.raw.median_ms

    def over_budget(self, budget: Budget) -> str | None:
        """The sentence to fail with, or None when the measured latency fits."""
        limit, found = budget.latency_ms, self.latency_ms
        if limit is None or found <= limit or not self.on_target:
            return None
        predicted = self.predicted_latency_ms
        told = "" if predicted is None else f" (predicted {predicted:.3f} ms)"
        advice = "" if self.note else ": search with more headroom"
        over = f"{found:.3f} ms, above the budget of {limit:g} ms"
        return f"the exported detector measures {over}{told}{advice}"


def export_run(
    run: Run,
    request: Request,
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> Exported:
    """Exports a trained network of a run as a verified bundle, measured as its table was.

    Raises:
        ExportError: the export, its agreement with PyTorch or the engine failed; nothing is written.
        DataError: the images that it is compared on are missing or damaged.
    """
    trial, weights = weights_of(run, request.baseline, request.fully_trained)
    home = weights.parent if request.baseline or request.fully_trained else run.folder
    folder = request.out or home / "bundle"
    backend = request.backend or benchmark.backend_of(run)
    precision = request.precision or run.precision
    _check(run, folder, backend, precision, request)
    model = trained_detector(run, trial, weights)
    exported = shipped(run, model, precision, request.calibration_images)
    engine = None
    if request.compute_capability is not None:
        engine = engine_from_onnx(exported, request.compute_capability, precision)
    with backend:
        facts = backend.describe()
        plan = backend.plan(exported) if isinstance(backend, EngineBackend) else None
        load = _loader(backend, plan)
        agreements, sample = _compared(run, model, exported, backend, load, request, progress)
        if precision == "fp32":
            for name, agreement in agreements.items():
                agreement.require_equal(name)
        note = benchmark.not_comparable(run, facts, precision)
        about = run.provenance
        reference_ms = None if note or about is None else about.reference_ms
        measured = measure_at_table_speed(backend, exported, reference_ms, load=load)
    built = None if plan is None else _built_here(backend, facts, precision)
    if engine is not None:
        plan, built = engine.content, {k: v for k, v in asdict(engine).items() if k != "content"}
    on_target = benchmark.is_target(target := benchmark.target_of(run), facts)
    metadata = _metadata(run, trial, precision) | {
        "latency": {
            "predicted_ms": trial.latency_ms,
            "prediction": None if about is None else "estimated" if about.estimated else "measured blocks",
            "clock": asdict(measured.raw),
            "at_table_speed_ms": None if note else measured.latency_ms,
            "drift": None if note else measured.drift,
            "throttled": measured.throttled,
            "note": note,
            "remark": measured.note,
            "backend": facts,
            "target": target,
            "on_target": on_target,
        },
        "parity": {name: one.document() for name, one in agreements.items()},
        "reference_metrics": next(iter(agreements.values())).reference_metrics,
        "engine": built,
        "sample": _expected(sample),
    }
    files = {ONNX: exported.SerializeToString(), "sample.ppm": ppm(sample.picture)}
    files |= programs(engine=plan is not None) | ({} if plan is None else {ENGINE: plan})
    write_bundle(folder, files, metadata)
    told = built and f"{built['runtime']} {built['runtime_version']}, {built['compute_capability']}"
    return Exported(
        folder, trial.code, precision, trial.latency_ms, measured, agreements, told, note, on_target
    )


def _check(run: Run, folder: Path, backend: Backend, precision: str, request: Request) -> None:
    """Refuses at once what would fail in the end."""
    from spnas_hw.detection.datasets import image_paths
    from spnas_hw.detection.inference import load_image

    require_free(folder)
    with backend_by_name(CPU):
        image_paths(run.config.dataset, "val")
    if precision == "int8":
        require_quantiser()
        image_paths(run.config.dataset, "train")
    if request.sample is not None:
        load_image(request.sample)
    if request.compute_capability is not None:
        if isinstance(backend, EngineBackend):
            raise InvalidConfig(
                f"{backend.name} builds an engine here; to build one ahead for {request.compute_capability}, "
                "add --runtime onnxruntime"
            )
        require_compute_capability(request.compute_capability)


def _compared(
    run: Run,
    model: nn.Module,
    exported: onnx.ModelProto,
    backend: Backend,
    load: Callable[[Model], Session],
    request: Request,
    progress: Callable[[float, int], None],
) -> tuple[dict[str, Agreement], Sample]:
    """What is shipped beside PyTorch, in an entered backend and in ONNX Runtime on the CPU."""
    from spnas_hw.detection.inference import detect

    config = run.config
    with ExitStack() as stack:
        session = stack.enter_context(closing(load(exported)))
        runtimes = {backend.name: _detector(session)}
        if backend.name != CPU:
            cpu = stack.enter_context(backend_by_name(CPU))
            runtimes = {CPU: _detector(cpu.load(exported)), **runtimes}
        agreements, sample = compare(
            lambda image: detect(model, image),
            runtimes,
            config.dataset,
            config.detector.classes,
            config.size,
            request.images,
            progress,
        )
        if request.sample is not None:
            sample = sample_of(request.sample, runtimes[backend.name], config.size)
        return agreements, sample


def ppm(picture: NDArray[np.uint8]) -> bytes:
    """A binary PPM of [H, W, 3] RGB: what can be read without any library."""
    height, width, _ = picture.shape
    return f"P6 {width} {height} 255\n".encode() + picture.tobytes()


def _loader(backend: Backend, plan: bytes | None) -> Callable[[Model], Session]:
    """What loads the network that is shipped: its engine, where one was built."""
    if plan is None or not isinstance(backend, EngineBackend):
        return backend.load
    return lambda model: backend.load_plan(plan, model)


def _detector(session: Session) -> Callable[[NDArray[np.float32]], Any]:
    return lambda image: exported_detections(session.run({"image": image}))


def _built_here(backend: Backend, facts: Facts, precision: str) -> dict[str, Any]:
    names = ("runtime", "runtime_version", "compute_capability", "device", "version_compatible", "hardware")
    return {**{name: facts.get(name) for name in names}, "precision": precision, "scope": "whole detector"}


def _expected(sample: Sample) -> dict[str, Any]:
    boxes, scores, labels = sample.detections
    return {
        "file": "sample.ppm",
        "boxes": boxes.tolist(),
        "scores": scores.tolist(),
        "labels": labels.tolist(),
    }


def _metadata(run: Run, trial: Trial, precision: str) -> dict[str, Any]:
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
        "precision": precision,
        "budget": asdict(run.budget),
        "metrics": trial.metrics,
        "macs": trial.macs,
        "params": trial.params,
    }
