"""How far predictions are from whole detectors that took no part in making the table.

Profiles the space anew, measures random detectors whole, serial ones and ones with sub-networks, and says
which targets are met. Results go to benchmarks/results/. A GPU: --runtime tensorrt --gpu WORD.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from profilers.table import LatencyTable
from spnas_hw import console
from spnas_hw.cli_profile import CALIBRATION
from spnas_hw.config import load_search
from spnas_hw.pipeline import profile as profile_step
from spnas_hw.pipeline.validation import Proof, validate

RESULTS = Path(__file__).parent / "results"


def main(
    config: console.Config = "demo",
    count: Annotated[int, typer.Option(min=3, help="Held-out detectors.")] = 64,
    runtime: str | None = None,
    gpu: console.Gpu = None,
    threads: int | None = None,
    precision: str = "fp32",
    calibration: int = CALIBRATION,
    seed: int = 0,
) -> None:
    loaded = load_search(config)
    home = Path("build/composition") / Path(config).stem
    device = profile_step.backend(runtime, gpu, threads, home / "engines")
    with console.bar(console.stderr, "exporting workloads") as progress:
        manifest = profile_step.ensure_manifest(loaded, home / "workloads", precision, calibration)
        progress(1, 1)
    with console.bar(console.stderr, "profiling") as progress:
        folder = profile_step.profile(manifest, device, home / "latency_tables", progress, again=True)
    table = LatencyTable.read(folder)
    document = {"provenance": table.provenance.model_dump(mode="json")}
    console.stdout.print(console.table_summary(table, folder))
    for kind in ("serial", "parallel"):
        with console.bar(console.stderr, f"validating {kind} networks") as progress:
            proof = validate(
                loaded, folder, count, seed, gpu, home, home / "workloads", progress, kind == "parallel"
            )
        console.stdout.print(f"{kind} networks", highlight=False)
        console.stdout.print(console.proof_tables(proof))
        for target, is_met in targets(proof, on_gpu=gpu is not None).items():
            console.stdout.print(f"{'met   ' if is_met else 'MISSED'} {target}", highlight=False)
        document[kind] = asdict(proof)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"composition_error-{config}-{table.name()}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.stdout.print(str(path))


def targets(proof: Proof, on_gpu: bool) -> dict[str, bool]:
    """The targets of the project, and whether they are met."""
    found, limit = proof.prediction, 0.02 if on_gpu else 0.03
    return {
        f"MAPE {found.mape:.2%}, at most {limit:.0%}": found.mape <= limit,
        f"Spearman {found.spearman:.4f}, at least 0.99": found.spearman >= 0.99,
        f"{found.within_10:.1%} within 10 %, all": found.within_10 == 1.0,
        f"isolated blocks err {proof.isolated.mape / found.mape:.1f} times as much, at least 3": (
            proof.isolated.mape >= 3 * found.mape
        ),
        f"a line in MACs errs {proof.macs.mape / found.mape:.1f} times as much, at least 3": (
            proof.macs.mape >= 3 * found.mape
        ),
        f"{found.count} held-out detectors, at least 60": found.count >= 60,
    }


if __name__ == "__main__":
    typer.run(main)
