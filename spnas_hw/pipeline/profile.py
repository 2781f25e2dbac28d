"""Workloads of a search space -> a latency table."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from profilers.backends import Backend
from profilers.errors import BackendUnavailable, InvalidManifest, InvalidTable
from profilers.manifest import read_manifest
from profilers.nvml import find_device
from profilers.protocol import measure_manifest
from profilers.table import LatencyTable, table_name
from spnas_hw import __version__
from spnas_hw.config import SearchConfig, fingerprint
from spnas_hw.cost.composition import cost
from spnas_hw.errors import InvalidConfig
from spnas_hw.run import PRECISION, read_table
from spnas_hw.space.codec import decode, encode


def write_manifest(config: SearchConfig, folder: Path) -> Path:
    """Exports every workload of the search space to `folder`; returns the manifest's path."""
    from spnas_hw.detection.detector import build_model
    from spnas_hw.export.workloads import write_workloads

    return write_workloads(
        folder,
        config.space,
        config.detector,
        config.size,
        lambda architecture: build_model(architecture, config.detector),
        space_hash(config),
    )


def space_hash(config: SearchConfig) -> str:
    """Names the set of workloads: the search space and the detector around it."""
    return fingerprint(config.space) + fingerprint(config.detector)


def ensure_manifest(config: SearchConfig, folder: Path) -> Path:
    """The manifest of the search space in `folder`, exported unless it lies there already."""
    path = folder / "manifest.json"
    if not _is_current(path, config):
        path.unlink(missing_ok=True)  # first, so that an interruption leaves no manifest without its parts
        shutil.rmtree(folder / "parts", ignore_errors=True)
        write_manifest(config, folder)
    return path


def _is_current(path: Path, config: SearchConfig) -> bool:
    if not path.exists():
        return False
    try:
        found = read_manifest(path)
    except InvalidManifest:
        return False
    size = (found.input_height, found.input_width)
    return (found.space_hash, found.tool_version, size) == (space_hash(config), __version__, config.size)


def require_gpu(word: str) -> None:
    """Raises BackendUnavailable: no such GPU, or none of the backends here can measure it."""
    gpu = find_device(word)
    raise BackendUnavailable(
        f"{gpu.name} is here, but no GPU backend is in this version: "
        "measure on the CPU with --backend onnxruntime, or use the exported workloads with your own runtime"
    )


def profile(
    config: SearchConfig,
    backend: Backend,
    workloads: Path,
    out: Path,
    progress: Callable[[float, int], None],
) -> Path:
    """Measures every workload of the search space; returns the folder of the table below `out`.

    Raises:
        InvalidConfig: the folder of the table holds one of another search space.
    """
    manifest = read_manifest(ensure_manifest(config, workloads))
    with backend:
        facts = backend.describe()
        size = (manifest.batch, manifest.input_height, manifest.input_width)
        folder = out / table_name(str(facts["device"]), str(facts["runtime"]), manifest.precision, *size)
        _refuse_other_space(folder, manifest.space_hash)
        return measure_manifest(manifest, backend, out, progress=progress)


def _refuse_other_space(folder: Path, space_hash: str) -> None:
    try:
        found = LatencyTable.read(folder).provenance.space_hash
    except InvalidTable:
        return  # none, or one that nobody can use
    if found != space_hash:
        raise InvalidConfig(f"{folder} holds the table of another search space: choose another --out")


def predict(code: str, config: SearchConfig, table_folder: Path) -> dict[str, Any]:
    """Costs of the whole detector of a code. Raises MissingWorkload."""
    architecture = decode(code)
    table = read_table(table_folder, config)
    found = cost(architecture, config.detector, config.size, table.costs(), PRECISION)
    return {"code": encode(architecture), **asdict(found), "table": table.name()}
