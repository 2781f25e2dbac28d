"""Workloads of a search space -> a latency table."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from profilers.backends import Backend, backend_by_name, cache_of
from profilers.errors import BackendUnavailable, InvalidManifest
from profilers.manifest import read_manifest
from profilers.nvml import find_device
from profilers.protocol import measure_manifest
from spnas_hw import __version__
from spnas_hw.config import SearchConfig, fingerprint
from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import cost
from spnas_hw.errors import InvalidConfig
from spnas_hw.run import read_table
from spnas_hw.space.architecture import BRANCHES_MAX, Architecture, Stage
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.search_space import SearchSpace

_CALIBRATION_SEED = 2020


def write_manifest(config: SearchConfig, folder: Path, precision: str, calibration: int) -> Path:
    """Exports every workload of the search space to `folder`; returns the manifest's path.

    Args:
        calibration: how many whole networks are measured beside the workloads.

    Raises:
        InvalidConfig: no such precision.
    """
    from spnas_hw.detection.detector import build_model
    from spnas_hw.export.workloads import PRECISIONS, write_workloads

    if precision not in PRECISIONS:
        raise InvalidConfig(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    return write_workloads(
        folder,
        config.space,
        config.detector,
        config.size,
        lambda architecture: build_model(architecture, config.detector),
        space_hash=space_hash(config),
        precision=precision,
        wholes=calibration_architectures(config, calibration),
    )


def calibration_architectures(config: SearchConfig, count: int) -> list[Architecture]:
    """Those that are measured whole beside the workloads; always the same ones."""
    return distinct_samples(config.space, count, np.random.default_rng(_CALIBRATION_SEED))


def distinct_samples(
    space: SearchSpace,
    count: int,
    rng: np.random.Generator,
    without: Collection[Architecture] = (),
    parallel: bool = False,
) -> list[Architecture]:
    """At most `count` random architectures; fewer where the space is that small. `parallel`: with
    sub-networks, each number of them at a stage and either kind equally likely."""
    found: dict[Architecture, None] = {}
    for _ in range(50 * count):
        if len(found) == count:
            break
        architecture = space.sample(rng)
        if parallel:
            architecture = _with_branches(architecture, rng)
        if architecture not in without:
            found[architecture] = None
    return list(found)


def _with_branches(serial: Architecture, rng: np.random.Generator) -> Architecture:
    counts = rng.integers(BRANCHES_MAX + 1, size=len(serial.stages))
    own = rng.random(len(serial.stages)) < 0.5
    stages = [
        Stage(stage.doubles, int(count), bool(count and owns))
        for stage, count, owns in zip(serial.stages, counts, own, strict=True)
    ]
    return replace(serial, stages=tuple(stages))


def space_hash(config: SearchConfig) -> str:
    """Names the set of workloads, and the detector whose settings their keys do not all tell."""
    keys = "\n".join(sorted(closed_set(config.space, config.detector, config.size)))
    return hashlib.sha256(keys.encode()).hexdigest()[:16] + fingerprint(config.detector)


def workloads_folder(config: str, precision: str) -> Path:
    """Where the workloads of a named configuration go unless told otherwise."""
    return Path("build/workloads") / f"{Path(config).stem}-{precision}"


def ensure_manifest(config: SearchConfig, folder: Path, precision: str, calibration: int) -> Path:
    """The manifest of the search space in `folder`, exported unless it lies there already.

    Args:
        calibration: how many whole networks it must hold; None: one that is there may hold any number.
    """
    path = folder / "manifest.json"
    if not _is_current(path, config, precision, calibration):
        path.unlink(missing_ok=True)  # first, so that an interruption leaves no manifest without its parts
        shutil.rmtree(folder / "parts", ignore_errors=True)
        write_manifest(config, folder, precision, calibration or 0)
    return path


def _is_current(path: Path, config: SearchConfig, precision: str, calibration: int | None) -> bool:
    if not path.exists():
        return False
    try:
        found = read_manifest(path)
    except InvalidManifest:
        return False
    size = (found.input_height, found.input_width)
    own = (found.space_hash, found.tool_version, found.precision, size)
    wholes = None if calibration is None else len(calibration_architectures(config, calibration))
    same = own == (space_hash(config), __version__, precision, config.size)
    return same and wholes in (None, len(found.wholes))


GPU_RUNTIMES = ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "torch-cuda")
"""In the order of preference."""


def backend(
    runtime: str | None, gpu: str | None, threads: int | None, cache: Path | None, **own: Any
) -> Backend:
    """What measures; it was woken up once and works.

    Args:
        runtime: None chooses onnxruntime, or with a GPU the first of GPU_RUNTIMES that works with it.
        gpu: a word of its name, or its UUID.
        cache: where what a runtime builds is kept; None: below build/, for runtimes that build.
        own: options that some runtimes alone have; those that are None are left out.

    Raises:
        BackendUnavailable: no such GPU; what is missing for it.
    """
    device = None if gpu is None else find_device(gpu)
    if runtime is None and device is None:
        runtime = "onnxruntime"
    missing: list[BackendUnavailable] = []
    for name in GPU_RUNTIMES if runtime is None else (runtime,):
        home = cache_of(name) and (cache or cache_of(name))
        options: dict[str, Any] = {"gpu": device, "threads": threads, "cache": home, **own}
        try:
            with backend_by_name(name, **options) as found:
                return found
        except BackendUnavailable as error:
            missing.append(error)
    if len(missing) == 1:
        raise missing[0]
    reasons = "; ".join(f"{name}: {error}" for name, error in zip(GPU_RUNTIMES, missing, strict=True))
    raise BackendUnavailable(f"no runtime for {device.name if device else gpu}: {reasons}")


def profile(
    manifest: Path,
    backend: Backend,
    out: Path,
    progress: Callable[[float, int], None],
    again: bool = False,
) -> Path:
    """Measures every workload of a manifest; returns the folder of the table below `out`.

    Raises TableMismatch: the folder of the table holds one of another search space.
    """
    document = read_manifest(manifest)
    with backend:
        return measure_manifest(document, backend, out, again=again, progress=progress)


def predict(code: str, config: SearchConfig, table_folder: Path) -> dict[str, Any]:
    """Costs of the whole detector of a code. Raises MissingWorkload."""
    architecture = decode(code)
    table = read_table(table_folder, config)
    found = cost(architecture, config.detector, config.size, table.costs(), table.provenance.precision)
    return {
        "code": encode(architecture),
        **asdict(found),
        "table": table.name(),
        "estimated": table.provenance.estimated,
    }
