"""The command line: argv, printing, exit codes. The work is in `pipeline`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from profilers.errors import ProfilerError
from spnas_hw import __version__, console
from spnas_hw.errors import InvalidConfig, OverBudget, SpnasError

app = typer.Typer(
    name="spnas-hw",
    help="Search detection backbones under a latency measured on your device: profile, search, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

stderr = Console(stderr=True)
stdout = Console(soft_wrap=True)

Config = Annotated[
    str, typer.Option(help="Search configuration: a file, or the name of one in configs/searches.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line of stdout.")]
TableFolder = Annotated[
    Path | None,
    typer.Option("--table", help="Folder of a latency table. Default: the only one in latency_tables/."),
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/demo.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads within one operator.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        stdout.print(__version__)
        raise typer.Exit


@contextmanager
def _resumable(how: str) -> Iterator[None]:
    """Ctrl-C leaves something to go on with; says how."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(f"interrupted: {how} goes on")
        raise typer.Exit(130) from None


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole trace of an error.")] = False,
) -> None:
    """Search detection backbones under a latency measured on your device: profile, search, export."""


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and how to mend it."""
    from spnas_hw.doctor import examine

    findings = examine()
    table = Table("", "what", "found", "to mend it")
    for finding in findings:
        mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]" if finding.optional else "[red]no[/]"
        table.add_row(mark, finding.what, finding.found, "" if finding.ok else finding.remedy)
    stdout.print(table)
    if any(not finding.ok and not finding.optional for finding in findings):
        raise typer.Exit(1)


@app.command()
def arch(
    code: Annotated[str, typer.Argument(help="Architecture code, e.g. r_111-2111-211111-211 (ResNet-50).")],
    input: Annotated[str, typer.Option(help="Image height x width in pixels.")] = "1024x1920",
    as_json: Json = False,
) -> None:
    """Show the stages, channels, strides, parameters and MACs of a backbone."""
    from spnas_hw.description import describe

    found = describe(code, _size(input))
    if as_json:
        _print_json(found)
        return
    table = Table("stage", "blocks", "channels", "stride", "params", "MACs", title=found["code"])
    for stage in found["stages"]:
        table.add_row(
            *(f"{stage[key]:,}" for key in ("index", "blocks", "channels", "stride", "params", "macs"))
        )
    table.add_section()
    table.add_row("with stem", f"{found['depth']}", "", "", f"{found['params']:,}", f"{found['macs']:,}")
    stdout.print(table)


@app.command()
def profile(
    config: Config = "demo",
    gpu: Annotated[str | None, typer.Option(help="A word of the GPU's name, e.g. V100.")] = None,
    backend: Annotated[str, typer.Option(help="Runtime to measure with.")] = "onnxruntime",
    threads: Threads = 1,
    workloads: Annotated[
        Path | None, typer.Option(help="Folder of the ONNX workloads. Default: build/workloads/CONFIG.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the table's folder goes.")] = Path("latency_tables"),
    manifest_only: Annotated[
        bool,
        typer.Option(
            help="Only export the workloads: copy them to the device and run "
            "`python -m profilers measure MANIFEST` there."
        ),
    ] = False,
) -> None:
    """Measure every workload of a search space on this device, into a latency table."""
    from profilers.backends import backend_by_name
    from profilers.table import LatencyTable
    from spnas_hw.config import load_search
    from spnas_hw.pipeline import profile as profile_step

    if gpu is not None:
        profile_step.require_gpu(gpu)
    loaded = load_search(config)
    folder = workloads or Path("build/workloads") / Path(config).stem
    if manifest_only:
        stdout.print(str(profile_step.write_manifest(loaded, folder)))
        return
    with console.bar(stderr, "exporting workloads") as progress:
        profile_step.ensure_manifest(loaded, folder)
        progress(1, 1)
    chosen = backend_by_name(backend, **({"threads": threads} if backend == "onnxruntime" else {}))
    with _resumable("the same command"), console.bar(stderr, "measuring networks") as progress:
        table = profile_step.profile(loaded, chosen, folder, out, progress)
    stdout.print(console.table_summary(LatencyTable.read(table), table))


@app.command()
def predict(
    code: Annotated[str, typer.Argument(help="Architecture code.")],
    table: TableFolder = None,
    config: Config = "demo",
    as_json: Json = False,
) -> None:
    """Predict latency, memory, MACs and parameters of a whole detector from a table."""
    from spnas_hw.config import load_search
    from spnas_hw.pipeline import profile as profile_step

    loaded = load_search(config)
    found = profile_step.predict(code, loaded, _table(table))
    if as_json:
        _print_json(found)
    else:
        stdout.print(
            f"{found['code']}: {found['latency_ms']:.3f} ms, {found['memory_mb']:.1f} MiB, "
            f"{found['macs'] / 1e9:.3f} GMACs, {found['params'] / 1e6:.3f} M parameters"
        )


@app.command()
def search(
    latency_ms: Annotated[float, typer.Option(help="Budget of the whole detector, batch 1, milliseconds.")],
    config: Config = "demo",
    table: TableFolder = None,
    run: Annotated[Path, typer.Option(help="Run folder.")] = Path("runs/search"),
    memory_mb: Annotated[float | None, typer.Option(help="Budget of weights and activations, MiB.")] = None,
    macs: Annotated[float | None, typer.Option(help="Budget of multiply-accumulates.")] = None,
    params: Annotated[float | None, typer.Option(help="Budget of parameters.")] = None,
    max_sample: Annotated[int | None, typer.Option(min=1, help="Candidates to train in all.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the search.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Afterwards train the start network as long as the winner.")
    ] = False,
) -> None:
    """Search the backbone with the best mAP whose detector fits the budget."""
    from spnas_hw.config import load_search, overridden
    from spnas_hw.cost.constraints import Budget
    from spnas_hw.detection.datasets import prepare
    from spnas_hw.pipeline import search as search_step
    from spnas_hw.run import Run

    try:
        budget = Budget(latency_ms, memory_mb, macs, params)
    except ValueError as error:
        raise InvalidConfig(str(error)) from error
    loaded = overridden(load_search(config), max_sample=max_sample, seed=seed)
    this = Run(run, loaded, budget, _table(table).resolve())
    if failures := this.table.failures():
        stderr.print(f"{len(failures)} workloads of the table failed; networks that need them are left out")
    search_step.check(this, resume)
    with console.bar(stderr, "rendering scenes") as progress:
        prepare(loaded.dataset, loaded.size, progress)
    resumable = _resumable("the same command with --resume")
    with resumable, console.trials(stderr, loaded.serial.max_sample) as (progress, show):
        search_step.search(this, resume=resume, progress=progress, on_trial=show, note=stderr.print)
    if baseline:
        resumable = _resumable("the same command with --resume")
        with resumable, console.trials(stderr, None) as (progress, show):
            show(search_step.train_baseline(this, progress))
    winner = this.winner()
    stdout.print(f"winner {winner.code}  mAP {winner.mean_ap:.4f}  {winner.latency_ms:.3f} ms predicted")
    stdout.print(f"next: spnas-hw export {run}")


@app.command()
def export(
    run: RunFolder,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Export the baseline, not the winner.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Bundle folder. Default: bundle in the run folder.")
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(help="Also build a TensorRT-RTX engine for this compute capability, e.g. 8.9."),
    ] = None,
    allow_over_budget: Annotated[
        bool, typer.Option("--allow-over-budget", help="Exit 0 although the measured latency is too high.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export the winner: one ONNX, compared with PyTorch, measured against the budget; and an engine."""
    from spnas_hw.pipeline import export as export_step
    from spnas_hw.run import Run

    this = Run.open(run)
    exported = export_step.export_run(this, baseline, out, compute_capability)
    if as_json:
        _print_json(console.exported_document(exported))
    else:
        stdout.print(console.exported_summary(exported, this.budget))
    over = exported.over_budget(this.budget)
    if over and not baseline and not allow_over_budget:
        raise OverBudget(over)


@app.command()
def benchmark(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported bundle.")],
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Measure a bundle's ONNX again, here, with ONNX Runtime on the CPU."""
    from profilers.backends import backend_by_name
    from spnas_hw.pipeline import export as export_step

    found = export_step.benchmark(bundle, backend_by_name("onnxruntime", threads=threads))
    if as_json:
        _print_json(asdict(found))
    else:
        raw = found.raw
        stdout.print(
            f"{bundle}: median {raw.median_ms:.3f} ms, p90 {raw.p90_ms:.3f}, p99 {raw.p99_ms:.3f}, "
            f"{raw.count} runs, coefficient of variation {raw.coefficient_of_variation:.1%}"
        )


@app.command()
def report(run: RunFolder, as_json: Json = False) -> None:
    """Draw mAP against latency to report.png and compare baseline and winner."""
    from spnas_hw.pipeline import report as report_step
    from spnas_hw.run import Run

    path, rows = report_step.report(Run.open(run))
    if as_json:
        _print_json({"figure": str(path), "rows": rows})
    else:
        stdout.print(console.comparison(rows))
        stdout.print(str(path))


@data_app.command("synthesize")
def synthesize(config: Config = "demo") -> None:
    """Render the synthetic streets of a search configuration, in the layout of EuroCity Persons."""
    from spnas_hw.config import load_search
    from spnas_hw.detection.datasets import prepare

    loaded = load_search(config)
    if loaded.dataset.type != "streets":
        raise InvalidConfig(f"{config} uses {loaded.dataset.type} data: only streets can be synthesized")
    with console.bar(stderr, "rendering scenes") as progress:
        prepare(loaded.dataset, loaded.size, progress)
    stdout.print(str(loaded.dataset.root))


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise InvalidConfig(f"the input size {text!r} must be height x width in pixels, e.g. 1024x1920")
    if not (32 <= int(height) <= 16384 and 32 <= int(width) <= 16384):
        raise InvalidConfig(f"the input size {text!r} must be within 32 and 16384 pixels a side")
    return int(height), int(width)


def _table(folder: Path | None) -> Path:
    if folder is not None:
        return folder
    home = Path("latency_tables")
    found = sorted(path.parent for path in home.glob("*/provenance.json"))
    if len(found) != 1:
        known = ", ".join(str(path) for path in found) or "none; measure one with spnas-hw profile"
        raise InvalidConfig(f"name a latency table with --table; there are: {known}")
    return found[0]


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: one line for what a user can mend, the trace with --debug, wherever it stands."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        app(["--debug"] * debug + [word for word in words if word != "--debug"])
    except (SpnasError, ProfilerError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
