"""Verbs around latency tables: doctor, profile, export-workloads, predict."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from spnas_hw import console
from spnas_hw.errors import InvalidConfig

profile_app = typer.Typer()

TABLES = Path("latency_tables")
Precision = Annotated[str, typer.Option(help="Of the networks: fp32, or fp16 with postprocessing in fp32.")]
Workloads = Annotated[
    Path | None, typer.Option(help="Folder of the ONNX workloads. Default: build/workloads/CONFIG-PRECISION.")
]


Calibration = Annotated[
    int, typer.Option(min=0, help="Whole detectors measured beside the workloads, to correct the sums by.")
]
CALIBRATION = 40
"""On the default space predictions err by 0.7 % with 36 of them, 0.8 with 24, 1.0 with 12, 1.4 with none."""


@profile_app.command()
def doctor(as_json: console.Json = False) -> None:
    """Say what this machine has, what is missing, and how to mend it."""
    from spnas_hw.doctor import examine

    findings = examine()
    if as_json:
        console.print_json([asdict(finding) for finding in findings])
    else:
        table = Table("", "what", "found", "to mend it")
        for finding in findings:
            mark = ("ok", "green") if finding.ok else ("--", "yellow") if finding.optional else ("no", "red")
            cells = (finding.what, finding.found, "" if finding.ok else finding.remedy)
            table.add_row(Text(*mark), *cells)
        console.stdout.print(table)
    if any(not finding.ok and not finding.optional for finding in findings):
        raise typer.Exit(1)


@profile_app.command()
def profile(
    config: console.Config = "demo",
    gpu: console.Gpu = None,
    runtime: Annotated[
        str | None,
        typer.Option(
            help="What runs the networks. Default: onnxruntime; with --gpu, the best that is installed."
        ),
    ] = None,
    precision: Precision = "fp32",
    calibration: Calibration = CALIBRATION,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads within one operator, for runtimes on the CPU.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Keep timing caches and layer information of built engines here.")
    ] = None,
    workloads: Workloads = None,
    out: Annotated[Path, typer.Option(help="Where the table's folder goes.")] = TABLES,
    again: Annotated[bool, typer.Option("--again", help="Measure although the table is there.")] = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="No measurement: reckon a first look at --gpu from its data sheet."),
    ] = False,
    as_json: console.Json = False,
) -> None:
    """Measure every workload of a search space on this device, into a latency table."""
    from profilers.table import LatencyTable
    from spnas_hw.config import load_search
    from spnas_hw.pipeline import profile as profile_step

    loaded = load_search(config)
    if estimate:
        from spnas_hw.pipeline.tables import estimate as estimated

        if gpu is None:
            raise InvalidConfig("--estimate needs --gpu NAME, one of configs/gpus.yml")
        folder = estimated(loaded, gpu, precision, out)
    else:
        backend = profile_step.backend(runtime, gpu, threads, cache)
        console.stderr.print(f"runtime: {backend.name}", highlight=False)
        home = workloads or profile_step.workloads_folder(config, precision)
        with console.bar(console.stderr, "exporting workloads") as progress:
            manifest = profile_step.ensure_manifest(loaded, home, precision, calibration)
            progress(1, 1)
        bar = console.bar(console.stderr, "measuring networks")
        with console.resumable("the same command"), bar as progress:
            folder = profile_step.profile(manifest, backend, out, progress, again)
    table = LatencyTable.read(folder)
    if as_json:
        failures = table.failures()
        console.print_json({"table": str(folder), "workloads": len(table.costs()), "failures": failures})
    else:
        console.stdout.print(console.table_summary(table, folder))


@profile_app.command("export-workloads")
def export_workloads(
    folder: Annotated[Path, typer.Argument(help="Where the ONNX files and manifest.json go.")],
    config: console.Config = "demo",
    precision: Precision = "fp32",
    calibration: Calibration = CALIBRATION,
) -> None:
    """Write what is to be measured, to be copied to another device and measured there.

    There run `python -m profilers measure FOLDER/manifest.json --runtime tensorrt`, which needs neither torch
    nor mmdet; then, here, `spnas-hw table import` the folder of the table.
    """
    from spnas_hw.config import load_search
    from spnas_hw.pipeline import profile as profile_step

    manifest = profile_step.ensure_manifest(load_search(config), folder, precision, calibration)
    console.stdout.print(str(manifest), highlight=False)


@profile_app.command()
def predict(
    code: Annotated[str | None, typer.Argument(help="Architecture code; none with --validate.")] = None,
    table: console.TableFolder = None,
    gpu: console.Gpu = None,
    config: console.Config = "demo",
    validate: Annotated[
        int | None,
        typer.Option(
            min=3, help="Measure so many random detectors whole, and compare with their predictions."
        ),
    ] = None,
    parallel: Annotated[
        bool, typer.Option("--parallel", help="The random detectors have sub-networks.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random detectors.")] = 0,
    cache: Annotated[
        Path | None, typer.Option(help="Keep the exported detectors, and what the runtime builds, here.")
    ] = None,
    as_json: console.Json = False,
) -> None:
    """Predict latency, memory, MACs and parameters of a whole detector from a table; or prove the table."""
    from profilers.table import LatencyTable
    from spnas_hw.config import load_search
    from spnas_hw.pipeline import profile as profile_step
    from spnas_hw.pipeline import validation as validation_step
    from spnas_hw.run import find_table

    if (code is None) == (validate is None):
        raise InvalidConfig("predict needs either an architecture code or --validate N")
    if parallel and validate is None:
        raise InvalidConfig("--parallel belongs to --validate: a code says itself where it has sub-networks")
    loaded = load_search(config)
    folder = table or find_table(TABLES, loaded.size, gpu)
    if validate is not None:
        home = cache or Path("build/validation")
        precision = LatencyTable.read(folder).provenance.precision
        workloads = profile_step.workloads_folder(config, precision)
        with console.bar(console.stderr, "validating") as progress:
            proof = validation_step.validate(
                loaded, folder, validate, seed, gpu, home, workloads, progress, parallel
            )
        if as_json:
            console.print_json(asdict(proof))
        else:
            console.stdout.print(console.proof_tables(proof))
        return
    assert code is not None
    found = profile_step.predict(code, loaded, folder)
    if as_json:
        console.print_json(found)
    else:
        how = " (estimated from data sheets)" * found["estimated"]
        console.stdout.print(
            f"{found['code']}: {found['latency_ms']:.3f} ms{how}, {found['memory_mb']:.1f} MiB, "
            f"{found['macs'] / 1e9:.3f} GMACs, {found['params'] / 1e6:.3f} M parameters"
        )
