"""A device on which costs add up exactly, a small search space on it, and interruptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx_parts import chain, conv, manifest

from profilers.backends.fake import FakeBackend
from profilers.interleaving import Settings
from profilers.manifest import Manifest, Probe
from profilers.protocol import measure_manifest
from profilers.table import LatencyTable

SETTINGS = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, group_networks=4, rebuilt_rows=0)
COST = {"a": 0.5, "b": 1.3, "t": 0.9}  # ms of one part on the devices below


def part(ms: float, name: str = "") -> onnx.ModelProto:
    """A part that costs this on a device that charges 0.01 ms an element of weights and nothing else."""
    model = conv(name=name)
    rest = np.zeros(round(ms * 100) - 16, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rest, "rest"))
    return model


def device(**options: object) -> FakeBackend:
    return FakeBackend(overhead_ms=0.2, node_ms=0.0, ms_per_element=0.01, **options)  # type: ignore[arg-type]


def small_space(folder: Path) -> Manifest:
    """Two workloads in chains, one between them, and one that is a whole network."""
    parts = {key: part(ms, name=f"node of {key}") for key, ms in COST.items()}
    workloads = {
        "a": chain("a"),
        "b": chain("b"),
        "t": [
            Probe(count=1, parts=("a", "t", "b")),
            Probe(count=0, parts=("a", "a")),
            Probe(count=0, parts=("b", "b")),
        ],
        "whole": [Probe(count=2, parts=("t", "t"))],
    }
    return manifest(folder, parts, workloads)


def profile(space: Manifest, backend: FakeBackend, out: Path, settings: Settings = SETTINGS) -> LatencyTable:
    return LatencyTable.read(measure_manifest(space, backend, out, settings=settings))


class Interrupted(Exception):
    pass


def stop_after(networks: int) -> Callable[[float, int], None]:
    def progress(done: float, total: int) -> None:
        if done >= networks:
            raise Interrupted

    return progress
