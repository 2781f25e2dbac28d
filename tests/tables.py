"""Latency tables for tests, without measuring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from profilers.table import LatencyTable, Provenance, Row
from spnas_hw.config import SearchConfig
from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.workload import Workload


def write_table(folder: Path, config: SearchConfig, latency_ms: Callable[[Workload], float | None]) -> Path:
    """A table of the whole closed set; a workload without a latency becomes a failed row."""
    rows = []
    for key, load in closed_set(config.space, config.detector, config.size).items():
        value = latency_ms(load)
        if value is None:
            rows.append(Row(key, "failed", reason="for a test"))
        else:
            rows.append(Row(key, "ok", latency_ms=value, latency_ci_ms=0.0))
    provenance = Provenance(
        device="a device",
        runtime="a runtime",
        runtime_version="1",
        precision="fp32",
        batch=1,
        input_height=config.input_height,
        input_width=config.input_width,
        threads=1,
        reference_ms=1.0,
        date="2026-01-01T00:00:00Z",
        space_hash="0",
        manifest_sha256="0",
        tool_version="0",
        environment={},
    )
    LatencyTable(provenance, tuple(rows)).write(folder)
    return folder
