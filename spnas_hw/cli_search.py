"""The commands that search: one phase at a time, or the steps of a pipeline file."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from spnas_hw import console
from spnas_hw.errors import InvalidConfig
from spnas_hw.run import Run, changes_since, find_table
from spnas_hw.space.codec import decode, encode

search_app = typer.Typer()


class PhaseName(str, Enum):
    """What a search may vary."""

    serial = "serial"
    parallel = "parallel"


@search_app.command()
def search(
    latency_ms: Annotated[
        float | None, typer.Option(help="Budget of the whole detector, batch 1, milliseconds.")
    ] = None,
    config: console.Config = "demo",
    table: console.TableFolder = None,
    gpu: console.Gpu = None,
    run: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/search"),
    memory_mb: Annotated[float | None, typer.Option(help="Budget of weights and activations, MiB.")] = None,
    macs: Annotated[float | None, typer.Option(help="Budget of multiply-accumulates.")] = None,
    params: Annotated[float | None, typer.Option(help="Budget of parameters.")] = None,
    depth: Annotated[int | None, typer.Option(help="Most residual blocks.")] = None,
    stages: Annotated[int | None, typer.Option(help="Most stages of the arch code.")] = None,
    phase: Annotated[
        PhaseName | None, typer.Option(help="One phase only. Default: serial, then parallel on its winner.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Start from a serial CODE, or from a RUN's best one with its weights."),
    ] = None,
    max_sample: Annotated[int | None, typer.Option(min=1, help="Trials of each phase in all.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the search.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    remeasure: Annotated[
        int | None,
        typer.Option(
            min=1, help="Before the winner is declared, export the best so many and measure them whole."
        ),
    ] = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Afterwards train the start network as long as the winner.")
    ] = False,
    as_json: console.Json = False,
) -> None:
    """Search the backbone with the best mAP whose detector fits the budget: any limits, all of them hard."""
    from spnas_hw.config import load_search, overridden
    from spnas_hw.cost.constraints import Budget
    from spnas_hw.detection.datasets import prepare
    from spnas_hw.pipeline import remeasure as remeasure_step
    from spnas_hw.pipeline import search as search_step
    from spnas_hw.pipeline import start as start_step

    limits = (latency_ms, memory_mb, macs, params, depth, stages)
    if all(limit is None for limit in limits):
        raise typer.BadParameter("a search needs a budget: give at least --latency-ms, or another limit")
    try:
        budget = Budget(*limits)
    except ValueError as error:
        raise InvalidConfig(str(error)) from error
    loaded = load_search(config)
    phases = start_step.phases_of(loaded, phase and phase.value)
    source = None if start is None else start_step.run_named(start)
    code = start_step.best_serial(source).code if source is not None else start and encode(decode(start))
    loaded = overridden(loaded, max_sample=max_sample, seed=seed, start=code, phases=phases)
    folder = table
    if table is None and (latency_ms is not None or gpu is not None):
        folder = find_table(Path("latency_tables"), loaded.size, gpu)
    this = Run(run, loaded, budget, folder and folder.resolve())
    for warning in table_warnings(this):
        console.stderr.print(warning, highlight=False)
    start_step.check(this, resume, phases, this_start=start is not None)
    if remeasure is not None:
        remeasure_step.check(this)
    with console.bar(console.stderr, "rendering scenes") as progress:
        prepare(loaded.dataset, loaded.size, progress)
    if source is not None:
        start_step.adopt(this, source)
    for each in phases:
        resumable = console.resumable("the same command with --resume")
        if len(phases) > 1:
            console.stderr.print(f"{each} phase:", highlight=False)
        wanted = search_step.trials_wanted(this, each)
        with resumable, console.trials(console.stderr, wanted) as (bar, show):
            search_step.search(
                this,
                phase=each,
                progress=bar,
                on_trial=show,
                note=console.stderr.print,
                keep=remeasure or 1,
            )
    measured = []
    if remeasure is None:
        if note := remeasure_step.unmeasured(this):
            console.stderr.print(note, highlight=False)
    else:
        with console.bar(console.stderr, "measuring the best whole", "detectors") as progress:
            measured = remeasure_step.remeasure(this, remeasure, progress)
        console.stderr.print(console.remeasured_lines(measured), highlight=False, soft_wrap=True)
        remeasure_step.require_one(measured, latency_ms)
    if baseline:
        resumable = console.resumable("the same command with --resume")
        with resumable, console.trials(console.stderr, None) as (bar, show):
            show(search_step.train_baseline(this, bar))
    if as_json:
        found = {"winner": asdict(this.winner()), "trials": len(this.trials())}
        console.print_json({"run": str(run), **found, "remeasured": [asdict(row) for row in measured]})
        return
    console.stdout.print(console.winner_line(this.winner()))
    console.stdout.print(f"next: spnas-hw export {run}")


@search_app.command("run")
def run_pipeline(
    pipeline: Annotated[str, typer.Argument(help="A pipeline file, e.g. configs/searches/sp_nas.yml.")],
    run: Annotated[Path | None, typer.Option(help="Run folder. Default: runs/ and the file's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    as_json: console.Json = False,
) -> None:
    """Run the steps of a pipeline file (sp_nas.yml): serial search, parallel search, full training."""
    from spnas_hw.detection.datasets import prepare
    from spnas_hw.pipeline import start as start_step
    from spnas_hw.pipeline import steps
    from spnas_hw.pipeline.sp_nas import load_pipeline
    from spnas_hw.pipeline.sp_nas_run import run_of, without_effect

    loaded = load_pipeline(pipeline)
    this = run_of(loaded, run or Path("runs") / loaded.file.stem)
    for warning in [*without_effect(loaded), *table_warnings(this)]:
        console.stderr.print(warning, highlight=False)
    start_step.check(this, resume, loaded.phases())
    with console.bar(console.stderr, "rendering scenes") as progress:
        prepare(this.config.dataset, this.config.size, progress)
    steps.begin(this, loaded.to_run())
    for step in loaded.to_run():
        console.stderr.print(f"{step.name}:", highlight=False)
        resumable = console.resumable("the same command with --resume")
        with resumable, console.trials(console.stderr, None) as (bar, show):
            steps.run_step(this, step, progress=bar, on_trial=show, note=console.stderr.print)
    trained = this.fully_trained()
    if as_json:
        winner = asdict(this.winner()) if this.trials() else None
        full = None if trained is None else asdict(trained)
        console.print_json({"run": str(this.folder), "winner": winner, "fully_trained": full})
        return
    if this.trials():
        console.stdout.print(console.winner_line(this.winner()))
    if trained is not None:
        console.stdout.print(console.winner_line(trained, "fully trained"))
    console.stdout.print(f"next: spnas-hw export {this.folder}{' --fully-trained' if trained else ''}")


def table_warnings(run: Run) -> list[str]:
    """What a user should know of the table that a search relies on."""
    if run.table is None:
        return []
    found = [
        f"the table was measured with {change}: profile again to be sure"
        for change in changes_since(run.table)
    ]
    if run.table.provenance.estimated:
        found.append("the latencies of this table are estimated from data sheets, not measured")
    if failures := run.table.failures():
        shown = f"{next(iter(failures))}: {next(iter(failures.values()))}"
        found.append(
            f"{len(failures)} workloads of the table failed ({shown}); networks that need them are left out"
        )
    return found
