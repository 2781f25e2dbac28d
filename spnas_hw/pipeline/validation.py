"""Predictions of a latency table against whole detectors, measured; beside what people use instead."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from profilers.backends import Backend, Model
from profilers.manifest import read_manifest
from profilers.table import LatencyTable
from profilers.whole import measure_models
from spnas_hw.config import SearchConfig
from spnas_hw.cost.accuracy import Accuracy, Attribution, accuracy, attribution, fitted_line
from spnas_hw.cost.composition import latency_ms, macs, workloads
from spnas_hw.cost.workload import Overhead, Workload
from spnas_hw.errors import InvalidConfig
from spnas_hw.pipeline.profile import (
    backend,
    calibration_architectures,
    distinct_samples,
    ensure_manifest,
    space_hash,
)
from spnas_hw.run import read_table
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode

Progress = Callable[[float, int], None]
_TOGETHER = 16  # networks that take turns
_ANCHORS = 4  # detectors among them that calibrated the table
_PASSES = 3  # each loads, on some runtimes builds, every network anew
_BLAMED = 8  # workloads listed


@dataclass(frozen=True)
class HeldOut:
    """One detector that took no part in making the table. `measured_ms` is the mean of the passes."""

    code: str
    predicted_ms: float
    measured_ms: float
    passes_ms: tuple[float, ...]


@dataclass(frozen=True)
class Proof:
    """How good a table's predictions are, and what the same networks say of other ways to predict.

    Attributes:
        prediction: sums of marginal costs with the table's corrections.
        uncorrected: the same without the corrections.
        isolated: sums of blocks measured alone.
        macs: the straight line in MACs, fitted on the very networks it is judged by.
        floor: the second pass over the networks against the first.
        drift: the reference network in each pass against that of the table.
        anchor_drift: detectors that calibrated the table, in each pass, against what the table says of them,
            after the reference network has been divided out: the part of the device's speed that it does not
            tell. Divided out as well.
    """

    table: str
    seed: int
    prediction: Accuracy
    uncorrected: Accuracy
    isolated: Accuracy
    macs: Accuracy
    floor: Accuracy
    drift: tuple[float, ...]
    anchor_drift: tuple[float, ...]
    blamed: list[Attribution]
    networks: list[HeldOut]


@dataclass(frozen=True)
class _Pass:
    """Every network once, at the speed the device had when the table was made."""

    latencies_ms: list[float]
    reference_drift: float
    anchor_drift: float


def validate(
    config: SearchConfig,
    table_folder: Path,
    count: int,
    seed: int,
    gpu: str | None,
    home: Path,
    workloads_folder: Path,
    progress: Progress,
    parallel: bool = False,
) -> Proof:
    """Measures `count` random detectors of the space whole, several times, and every block alone.

    Args:
        gpu: a word of the GPU's name, for a table of a GPU.
        home: exported detectors are kept here for the next time.
        workloads_folder: of the exported workloads of the space; exported where they are not there.
        parallel: the detectors have sub-networks.

    Raises:
        InvalidConfig: the table is of another device, runtime version or space, or is only estimated.
        MissingWorkload: the table lacks a workload.
    """
    table = read_table(table_folder, config)
    device = _device_of(table, config, gpu, home)
    used = calibration_architectures(config, table.provenance.calibration_networks)
    chosen = distinct_samples(config.space, count, np.random.default_rng(seed), used, parallel)
    loads = [workloads(architecture, config.detector, config.size) for architecture in chosen]
    predicted = [latency_ms(network, table.costs()) for network in loads]  # before anything is measured
    precision = table.provenance.precision
    manifest = read_manifest(ensure_manifest(config, workloads_folder, precision, None))
    keys = [
        key for key in sorted({load.key for network in loads for load in network}) if key != Overhead().key
    ]
    total = (1 + _PASSES) * len(chosen) + len(keys)
    models = _exported(config, chosen, table, home, lambda done: progress(done, total))
    anchors = itertools.cycle(manifest.wholes)
    with device:
        _require_same(device, table)
        done = len(chosen)

        def measure(networks: Sequence[Model]) -> _Pass:
            nonlocal done
            latencies_ms: list[float] = []
            references, anchored = [], []
            for start in range(0, len(networks), _TOGETHER):
                some = networks[start : start + _TOGETHER]
                wholes = list(itertools.islice(anchors, _ANCHORS))
                turns = [*some, *(manifest.load_network(whole.parts) for whole in wholes)]
                found = measure_models(device, turns, reference_ms=table.provenance.reference_ms)
                own, beside = found[: len(some)], found[len(some) :]
                latencies_ms += [latency.latency_ms for latency in own]
                references.append(own[0].drift)
                for whole, now in zip(wholes, beside, strict=True):
                    anchored.append(now.latency_ms / sum(table.costs()[key] for key in whole.workloads))
                done += len(own)
                progress(done, total)
            factor = float(np.median(anchored)) if anchored else 1.0
            return _Pass([ms / factor for ms in latencies_ms], float(np.median(references)), factor)

        passes = [measure(models) for _ in range(_PASSES)]
        alone = measure([manifest.load_part(key) for key in keys])
    isolated = dict(zip(keys, alone.latencies_ms, strict=True))
    return _proof(table, seed, loads, [encode(a) for a in chosen], predicted, passes, isolated)


def _proof(
    table: LatencyTable,
    seed: int,
    loads: Sequence[Sequence[Workload]],
    codes: Sequence[str],
    predicted: Sequence[float],
    passes: Sequence[_Pass],
    isolated: dict[str, float],
) -> Proof:
    by_pass = [one.latencies_ms for one in passes]
    by_network = list(zip(*by_pass, strict=True))
    measured = [float(np.mean(latencies)) for latencies in by_network]
    sums = {row.key: row.latency_ms for row in table.rows if row.latency_ms is not None}
    uncorrected = [latency_ms(network, sums) for network in loads]
    alone = [sum(isolated.get(load.key, 0.0) for load in network) for network in loads]
    residual = np.subtract(measured, predicted)
    return Proof(
        table=table.name(),
        seed=seed,
        prediction=accuracy(predicted, measured),
        uncorrected=accuracy(uncorrected, measured),
        isolated=accuracy(alone, measured),
        macs=accuracy(fitted_line([macs(network) for network in loads], measured), measured),
        floor=accuracy(by_pass[1], by_pass[0]),
        drift=tuple(one.reference_drift for one in passes),
        anchor_drift=tuple(one.anchor_drift for one in passes),
        blamed=attribution(loads, table.costs(), residual)[:_BLAMED],
        networks=[HeldOut(*found) for found in zip(codes, predicted, measured, by_network, strict=True)],
    )


def _device_of(table: LatencyTable, config: SearchConfig, gpu: str | None, home: Path) -> Backend:
    about = table.provenance
    if about.estimated:
        raise InvalidConfig(f"table {table.name()} is estimated, not measured: profile the device first")
    if about.space_hash != space_hash(config):
        raise InvalidConfig(f"table {table.name()} is of another search space than this configuration's")
    return backend(about.runtime, gpu, about.threads, home / "engines")


def _require_same(device: Backend, table: LatencyTable) -> None:
    facts = device.describe()
    for name in ("device", "runtime_version", "threads"):
        if facts[name] != (measured := getattr(table.provenance, name)):
            raise InvalidConfig(f"this is {name} {facts[name]}, the table is of {measured}: profile again")


def _exported(
    config: SearchConfig,
    architectures: Sequence[Architecture],
    table: LatencyTable,
    home: Path,
    progress: Callable[[int], None],
) -> list[Path]:
    """The whole detectors as a user would ship them, with random weights."""
    from spnas_hw.detection.detector import build_model
    from spnas_hw.export.detector import detector_onnx
    from spnas_hw.export.workloads import PRECISIONS, with_live_norms

    folder = home / f"detectors-{table.provenance.space_hash}-{table.provenance.precision}"
    folder = folder.with_name(f"{folder.name}-{config.input_height}x{config.input_width}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for done, architecture in enumerate(architectures):
        progress(done)
        path = folder / f"{encode(architecture)}.onnx"
        if not path.exists():
            model = with_live_norms(build_model(architecture, config.detector))
            exported = PRECISIONS[table.provenance.precision](
                detector_onnx(model, config.detector, config.size)
            )
            partial = path.with_suffix(".partial")
            partial.write_bytes(exported.SerializeToString())
            partial.rename(path)
        paths.append(path)
    return paths
