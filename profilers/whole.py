"""Whole networks, timed beside the reference network: what predictions are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from profilers.backends import Backend, Model, Session
from profilers.errors import MeasurementFailed
from profilers.interleaving import Group, Progress, Settings, Sitting
from profilers.measurements import Engine, Measurements
from profilers.stats import LatencyStats


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
    weights_bytes: int | None
    activation_bytes: int | None
    throttled: int  # runs left out because the device was throttled
    note: str | None


def measure_model(
    backend: Backend,
    model: Model,
    *,
    reference_ms: float | None = None,
    settings: Settings | None = None,
    load: Callable[[Model], Session] | None = None,
) -> ModelLatency:
    """Time one model beside the reference network.

    Args:
        backend: entered.
        reference_ms: latency of the reference network to normalise to, as in the provenance of a table; None:
            as it is during this measurement.
        load: how the model is loaded; None: by the backend.

    Raises:
        MeasurementFailed: the model does not load or run.
    """
    found = measure_models(backend, [model], reference_ms=reference_ms, settings=settings, load=load)
    return found[0]


def measure_models(
    backend: Backend,
    models: Sequence[Model],
    *,
    reference_ms: float | None = None,
    settings: Settings | None = None,
    progress: Progress = lambda done, total: None,
    load: Callable[[Model], Session] | None = None,
) -> list[ModelLatency]:
    """Time several models, taking turns with each other and the reference network; see `measure_model`."""
    settings = settings or Settings()
    measurements = Measurements()
    engines = [(number, 0) for number in range(len(models))]
    sitting = Sitting(backend, measurements, settings)
    group = Group(sitting, lambda engine: (load or backend.load)(models[engine[0]]))
    try:
        group.measure(
            engines,
            lambda engine, centres: centres[engine][1] <= settings.target_ci * centres[engine][0],
            lambda part: progress(part * len(models), len(models)),
        )
    finally:
        group.close()
        sitting.close()
    anchor_ms = measurements.median_reference_ms() if reference_ms is None else reference_ms
    return [_model_latency(measurements, engine, anchor_ms) for engine in engines]


def _model_latency(measurements: Measurements, engine: Engine, reference_ms: float) -> ModelLatency:
    timing, centre = measurements.timing(engine), measurements.centre(engine)
    if centre is None or timing.loaded is None:
        raise MeasurementFailed(timing.reason or "all its runs were throttled: cool the device")
    return ModelLatency(
        raw=LatencyStats.from_samples(np.concatenate(timing.bursts)),
        normalised=LatencyStats.from_samples(measurements.samples(engine) * reference_ms),
        latency_ms=centre[0] * reference_ms,
        latency_ci_ms=centre[1] * reference_ms,
        reference_ms=reference_ms,
        drift=measurements.median_reference_ms() / reference_ms,
        weights_bytes=timing.loaded.weights_bytes,
        activation_bytes=timing.loaded.activation_bytes,
        throttled=timing.throttled_runs,
        note=timing.note,
    )
