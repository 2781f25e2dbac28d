"""The command line: argv, printing, exit codes. The work is in `pipeline`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from profilers.errors import ProfilerError
from spnas_hw import __version__, console
from spnas_hw.cli_data import data_app
from spnas_hw.cli_evaluate import evaluate_app
from spnas_hw.cli_profile import profile_app
from spnas_hw.cli_search import search_app
from spnas_hw.cli_table import table_app
from spnas_hw.cli_train import train_app
from spnas_hw.errors import InvalidConfig, OverBudget, SpnasError

if TYPE_CHECKING:
    from profilers.backends import Backend
    from spnas_hw.run import Run

app = typer.Typer(
    name="spnas-hw",
    help="Search detection backbones under a latency measured on your device: profile, search, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(profile_app)
app.add_typer(search_app)
app.add_typer(train_app)
app.add_typer(table_app, name="table")
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(data_app, name="data")

Precision = Enum("Precision", {name: name for name in ("fp32", "fp16", "int8")}, type=str)
Hardware = Enum("Hardware", {"ampere": "ampere+", "same": "same-compute-capability"}, type=str)
AllowOverBudget = Annotated[
    bool, typer.Option("--allow-over-budget", help="Exit 0 although the measured latency is too high.")
]
RunFolder = Annotated[Path, typer.Argument(help="Folder of a run, e.g. runs/demo.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        console.stdout.print(__version__)
        raise typer.Exit


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
def arch(
    code: Annotated[str, typer.Argument(help="Architecture code, e.g. r_111-2111-211111-211 (ResNet-50).")],
    input: Annotated[str, typer.Option(help="Image height x width in pixels.")] = "1024x1920",
    as_json: console.Json = False,
) -> None:
    """Show the stages, channels, strides, parameters and MACs of a backbone."""
    from spnas_hw.description import describe

    found = describe(code, _size(input))
    if as_json:
        console.print_json(found)
        return
    title = f"backbone {found['code']} at {input}"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=title)
    for heading in ("stage", "blocks", "branches", "channels", "stride", "M params", "GMACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in found["stages"]:
        index, blocks, channels, stride = (stage[key] for key in ("index", "blocks", "channels", "stride"))
        branches = f"{stage['branches']}{' own' * stage['own_weights']}" if stage["branches"] else ""
        table.add_row(str(index), str(blocks), branches, str(channels), str(stride), *_millions(stage))
    table.add_section()
    table.add_row("with stem", str(found["depth"]), "", "", "", *_millions(found))
    console.stdout.print(table)


@app.command()
def export(
    run: RunFolder,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Export the baseline, not the winner.")
    ] = False,
    fully_trained: Annotated[
        bool, typer.Option("--fully-trained", help="Export what the pipeline trained fully.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Bundle folder. Default: bundle in the run folder.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="What runs and measures it, e.g. tensorrt. Default: what measured the table."),
    ] = None,
    gpu: console.Gpu = None,
    threads: Annotated[int | None, typer.Option(min=1, help="On a CPU. Default: the table's.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Default: the table's.")] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option(
            help="Build a TensorRT-RTX engine for this compute capability, e.g. 8.9, without a GPU."
        ),
    ] = None,
    hardware: Annotated[
        Hardware | None, typer.Option(help="Where else a TensorRT engine runs. Default: on this GPU only.")
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="A TensorRT engine that later versions run, too.")
    ] = False,
    images: Annotated[
        int, typer.Option(min=0, help="Validation images to compare with PyTorch; 0: all of them.")
    ] = 200,
    sample: Annotated[
        Path | None, typer.Option(help="Picture to ship as the sample. Default: a validation image.")
    ] = None,
    calibration_images: Annotated[
        int, typer.Option(min=1, help="Training images that INT8 finds its ranges with.")
    ] = 128,
    allow_over_budget: AllowOverBudget = False,
    as_json: console.Json = False,
) -> None:
    """Export the winner: one ONNX, compared with PyTorch, measured against the budget; and an engine."""
    from spnas_hw.pipeline import export as export_step
    from spnas_hw.run import Run

    this = Run.open(run)
    request = export_step.Request(
        baseline=baseline,
        fully_trained=fully_trained,
        out=out,
        backend=_backend(this, runtime, gpu, threads, hardware, version_compatible),
        precision=None if precision is None else precision.value,
        compute_capability=compute_capability,
        images=images or None,
        sample=sample,
        calibration_images=calibration_images,
    )
    with console.bar(console.stderr, "comparing with PyTorch", "images") as progress:
        exported = export_step.export_run(this, request, progress)
    if as_json:
        console.print_json(console.exported_document(exported))
    else:
        console.stdout.print(console.exported_summary(exported, this.budget))
    over = exported.over_budget(this.budget)
    if over and not baseline and not allow_over_budget:
        raise OverBudget(over)


@app.command()
def benchmark(
    bundle: Annotated[Path, typer.Argument(help="Folder of an exported bundle.")],
    runtime: Annotated[
        str | None, typer.Option(help="What runs it, e.g. tensorrt. Default: onnxruntime, on the CPU.")
    ] = None,
    gpu: console.Gpu = None,
    threads: Annotated[int | None, typer.Option(min=1, help="On a CPU. Default: 1.")] = None,
    allow_over_budget: AllowOverBudget = False,
    as_json: console.Json = False,
) -> None:
    """Measure a bundle here, with any runtime: its engine where that fits, else its ONNX."""
    from spnas_hw.pipeline.benchmark import benchmark as measure
    from spnas_hw.pipeline.profile import backend

    found = measure(bundle, backend(runtime, gpu, threads, None))
    if as_json:
        console.print_json(asdict(found))
    else:
        console.stdout.print(console.benchmark_summary(bundle, found))
    if (over := found.over_budget()) and not allow_over_budget:
        raise OverBudget(over)


@app.command()
def report(run: RunFolder, as_json: console.Json = False) -> None:
    """Draw mAP against latency to report.png and compare baseline and winner."""
    from spnas_hw.pipeline import report as report_step
    from spnas_hw.run import Run

    path, rows = report_step.report(Run.open(run))
    if as_json:
        console.print_json({"figure": str(path), "rows": rows})
    else:
        console.stdout.print(console.comparison(rows))
        console.stdout.print(str(path))


def _backend(
    run: Run,
    runtime: str | None,
    gpu: str | None,
    threads: int | None,
    hardware: Hardware | None,
    version_compatible: bool,
) -> Backend | None:
    """What an export is asked to run on; None: what measured the run's table."""
    from spnas_hw.pipeline.benchmark import gpu_of
    from spnas_hw.pipeline.profile import backend

    engines = {
        "hardware": None if hardware is None else hardware.value,
        "version_compatible": version_compatible or None,
    }
    if runtime is None and gpu is None and threads is None:
        if any(engines.values()):
            raise InvalidConfig("--hardware and --version-compatible are of TensorRT: add --runtime tensorrt")
        return None
    table = run.provenance
    if table is not None and runtime == table.runtime and gpu is None and threads is None:
        threads = table.threads
        gpu = gpu_of(run)
    return backend(runtime, gpu, threads, None, **engines)


def _millions(found: dict[str, Any]) -> tuple[str, str]:
    """Parameters in millions and MACs in thousands of millions."""
    return f"{found['params'] / 1e6:.3f}", f"{found['macs'] / 1e9:.3f}"


def _size(text: str) -> tuple[int, int]:
    height, cross, width = text.partition("x")
    if not (cross and height.isascii() and height.isdigit() and width.isascii() and width.isdigit()):
        raise InvalidConfig(f"the input size {text!r} must be height x width in pixels, e.g. 1024x1920")
    if not (32 <= int(height) <= 16384 and 32 <= int(width) <= 16384):
        raise InvalidConfig(f"the input size {text!r} must be within 32 and 16384 pixels a side")
    return int(height), int(width)


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
