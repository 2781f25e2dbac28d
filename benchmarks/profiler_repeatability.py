"""How much two profilings of the same space on the same machine differ.

Results go to benchmarks/results/.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import typer

from profilers.comparison import compare
from profilers.table import LatencyTable
from spnas_hw import console
from spnas_hw.cli_profile import CALIBRATION
from spnas_hw.config import load_search
from spnas_hw.pipeline import profile as profile_step

RESULTS = Path(__file__).parent / "results"


def main(
    config: console.Config = "demo",
    runtime: str | None = None,
    gpu: console.Gpu = None,
    threads: int | None = None,
    precision: str = "fp32",
    calibration: int = CALIBRATION,
) -> None:
    home = Path("build/repeatability") / Path(config).stem
    device = profile_step.backend(runtime, gpu, threads, home / "engines")
    manifest = profile_step.ensure_manifest(load_search(config), home / "workloads", precision, calibration)
    tables = []
    for run in ("first", "second"):
        with console.bar(console.stderr, f"{run} profiling") as progress:
            folder = profile_step.profile(manifest, device, home / run, progress, again=True)
        tables.append(LatencyTable.read(folder))
    comparison = compare(*tables)
    # In units of the reference network: the speed of the device is not what is asked for.
    speed = comparison.speed or 1.0
    rows = [(pair.a, pair.b) for pair in comparison.pairs if pair.a.status == pair.b.status == "ok"]
    first = np.array([a.latency_ms for a, _ in rows], dtype=float)
    second = np.array([b.latency_ms for _, b in rows], dtype=float) / speed
    intervals = np.array([(a.latency_ci_ms or 0.0) + (b.latency_ci_ms or 0.0) for a, b in rows])
    differences = np.abs(second - first) / np.maximum(np.abs(first), 1e-9)
    large = first >= np.median(first)
    document = {
        "table": tables[0].name(),
        "provenance": [table.provenance.model_dump(mode="json") for table in tables],
        "workloads": len(rows),
        "speed_ratio": speed,
        "difference_median": float(np.median(differences)),
        "difference_p90": float(np.percentile(differences, 90)),
        "difference_p90_of_the_larger_half": float(np.percentile(differences[large], 90)),
        "difference_of_the_sum": float(second.sum() / first.sum() - 1),
        "within_their_intervals": float(np.mean(np.abs(second - first) <= intervals)),
    }
    for name, value in document.items():
        if name != "provenance":
            console.stdout.print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"profiler_repeatability-{config}-{tables[0].name()}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.stdout.print(str(path))


if __name__ == "__main__":
    typer.run(main)
