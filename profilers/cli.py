"""`python -m profilers`: measure a manifest on this machine, or list its devices.

Exit codes: 0 done, 1 an error the user can act on (one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from profilers import nvml
from profilers.backends import BACKENDS, backend_by_name, cache_of
from profilers.environment import cpu_count, cpu_name
from profilers.errors import ProfilerError
from profilers.manifest import read_manifest
from profilers.protocol import measure_manifest
from profilers.table import LatencyTable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show the trace of an error.")] = False) -> None:
    """Measure how long ONNX networks take on this machine."""


@app.command()
def measure(
    manifest: Annotated[Path, typer.Argument(help="manifest.json, or the folder that holds it")],
    runtime: Annotated[str, typer.Option(help=f"One of: {', '.join(BACKENDS)}")],
    out: Annotated[Path, typer.Option(help="The table is a folder in this one.")] = Path("latency_tables"),
    gpu: Annotated[str | None, typer.Option(help="A word of the GPU's name, or its UUID.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads, for runtimes that have them.")] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Keep timing caches and layer information here, for runtimes that build engines. "
            "Default: build/engines/RUNTIME."
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure although the table is there.")] = False,
) -> None:
    """Measure every workload of a manifest and write a latency table; prints its folder.

    Interrupted, the same command goes on where it stopped. A table that is there already stays.
    """
    document = read_manifest(manifest)
    device = None if gpu is None else nvml.find_device(gpu)
    chosen = backend_by_name(runtime, gpu=device, threads=threads, cache=cache or cache_of(runtime))
    try:
        with chosen as backend, _progress_bar("measuring") as progress:
            folder = measure_manifest(document, backend, out, again=again, progress=progress)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from None
    table = LatencyTable.read(folder)
    failures = table.failures()
    for key, reason in failures.items():
        print(f"failed: {key}: {reason}", file=sys.stderr)
    print(f"{len(table.costs())} workloads measured, {len(failures)} failed", file=sys.stderr)
    print(folder)


@app.command()
def devices() -> None:
    """List what can be measured on."""
    table = Table("device", "memory", "compute capability", "driver")
    table.add_row(f"{cpu_name()}, {cpu_count()} processors", "", "", "")
    for gpu in nvml.devices():
        memory = f"{gpu.memory_bytes / 2**30:.0f} GiB"
        table.add_row(gpu.name, memory, gpu.compute_capability, gpu.driver_version)
    Console(markup=False, emoji=False).print(table)


def main() -> None:
    """Entry point: errors become one line, or a trace with `--debug`."""
    debug = "--debug" in sys.argv
    try:
        app(args=["--debug"] * debug + [word for word in sys.argv[1:] if word != "--debug"])
    except (ProfilerError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@contextmanager
def _progress_bar(what: str) -> Iterator[Callable[[float, int], None]]:
    """A bar on stderr with the time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
