"""What people see on a terminal: progress bars and tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from profilers.table import LatencyTable
from spnas_hw.cost.constraints import Budget
from spnas_hw.search.journal import Trial
from spnas_hw.search.remeasured import Remeasured

if TYPE_CHECKING:  # both wake libraries that few commands need
    from profilers.whole import ModelLatency
    from spnas_hw.pipeline.agreement import Agreement
    from spnas_hw.pipeline.benchmark import Benchmarked
    from spnas_hw.pipeline.export import Exported
    from spnas_hw.pipeline.validation import Proof

# Nothing in a path or in an error is markup or the name of a symbol.
stderr = Console(stderr=True, markup=False, emoji=False)
stdout = Console(soft_wrap=True, markup=False, emoji=False)

Config = Annotated[
    str, typer.Option(help="Search configuration: a file, or the name of one in configs/searches.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document as the last line of stdout.")]
TableFolder = Annotated[
    Path | None,
    typer.Option("--table", help="Folder of a latency table. Default: this machine's in latency_tables/."),
]
Gpu = Annotated[str | None, typer.Option(help="A word of the GPU's name, e.g. V100, or its UUID.")]


PROOF_COLUMNS = ("MAPE", "RMSPE", "bias", "worst", "<= 5 %", "<= 10 %", "Spearman", "Kendall")


def print_json(document: Any) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")


@contextmanager
def resumable(how: str) -> Iterator[None]:
    """Ctrl-C leaves something to go on with; says how. The exit code is 130."""
    try:
        yield
    except KeyboardInterrupt:
        stderr.print(f"interrupted: {how} goes on")
        raise typer.Exit(130) from None


def _progress(console: Console, unit: str) -> Progress:
    """It goes when it is done; in a pipe or a file it is never there."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextmanager
def bar(console: Console, what: str, unit: str = "") -> Iterator[Callable[[float, int], None]]:
    """A bar with time left; yields a function of (done, total)."""
    with _progress(console, unit) as progress:
        task = progress.add_task(what, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)


@contextmanager
def trials(
    console: Console, total: int | None
) -> Iterator[tuple[Callable[[int, int, int], None], Callable[[Trial], None]]]:
    """A bar for the iterations of the current trial, and a line for each that ended."""
    with _progress(console, "iterations") as progress:
        task = progress.add_task("trial", total=None, visible=False)

        def iterate(trial_id: int, done: int, iterations: int) -> None:
            of = f" of {total}" if total else ""
            what = "validating" if done == iterations else "training"
            description = f"trial {trial_id}{of}: {what}"
            progress.update(task, description=description, completed=done, total=iterations, visible=True)

        def show(trial: Trial) -> None:
            what = f"mAP {trial.mean_ap:.4f}" if trial.mean_ap is not None else f"failed: {trial.reason}"
            latency = "" if trial.latency_ms is None else f"  {trial.latency_ms:.3f} ms"
            origin = "" if trial.parent_id is None else f" from {trial.parent_id}"
            seconds = trial.t_end - trial.t_start
            how = f"({trial.operator}{origin}, {seconds:.0f} s)"
            line = f"trial {trial.trial_id}  {what}{latency}  {trial.code}  {how}"
            console.print(line, highlight=False, soft_wrap=True)

        yield iterate, show


def winner_line(winner: Trial, what: str = "winner") -> str:
    """The outcome of a search in one line."""
    latency = "" if winner.latency_ms is None else f"  {winner.latency_ms:.3f} ms {winner.latency_source}"
    return f"{what} {winner.code}  mAP {winner.mean_ap:.4f}{latency}"


def remeasured_lines(rows: Sequence[Remeasured]) -> str:
    """Predicted beside measured, a line for each network."""
    lines = []
    for row in rows:
        predicted = f"{row.arch}  mAP {row.mean_ap:.4f}  {row.predicted_latency_ms:.3f} ms predicted, "
        found, p99 = row.measured_latency_ms, row.measured_p99_ms
        measured = "" if found is None else f"{found:.3f} measured, p99 {p99:.3f}: "
        lines.append(predicted + measured + row.status)
    return "\n".join(lines)


def table_summary(table: LatencyTable, folder: Path) -> str:
    """One paragraph on a latency table."""
    failures = table.failures()
    about = table.provenance
    how = "estimated from data sheets, not measured" if about.estimated else f"measured {about.date}"
    runtime = f"{about.runtime} {about.runtime_version}"
    text = f"{folder}: {len(table.costs())} workloads on {about.device}, {runtime}, {how}"
    if about.error_of_sums is not None and about.error_left_out is not None:
        text += (
            f"; on {about.calibration_networks} whole detectors the sums err by {about.error_of_sums:.1%}, "
            f"corrected by the other {about.calibration_networks - 1} by {about.error_left_out:.1%}"
        )
    if failures:
        key, reason = next(iter(failures.items()))
        text += f"; {len(failures)} failed, the first {key}: {reason}"
    return text


def proof_tables(proof: Proof) -> Group:
    """How good predictions are, and which workloads the errors come from."""
    title = f"{proof.prediction.count} held-out detectors; errors in percent"
    measures = Table("", *PROOF_COLUMNS, title=title, box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for name, found in (
        ("prediction", proof.prediction),
        ("- uncorrected", proof.uncorrected),
        ("isolated blocks", proof.isolated),
        ("line in MACs", proof.macs),
        ("measured again", proof.floor),
    ):
        percents = (found.mape, found.rmspe, found.bias, found.worst, found.within_5, found.within_10)
        ranks = (found.spearman, found.kendall)
        measures.add_row(name, *(f"{100 * p:.1f}" for p in percents), *(f"{rank:.4f}" for rank in ranks))
    columns = ("workload", "times", "cost ms", "should be ms")
    blamed = Table(*columns, title="where the errors come from", box=SIMPLE_HEAD)
    for entry in proof.blamed:
        better = entry.cost_ms + entry.correction_ms
        blamed.add_row(entry.key, str(entry.occurrences), f"{entry.cost_ms:.4f}", f"{better:.4f}")
    return Group(measures, blamed)


def exported_document(exported: Exported) -> dict[str, Any]:
    """The numbers of an export as plain data."""
    return {
        "bundle": str(exported.folder),
        "code": exported.code,
        "precision": exported.precision,
        "predicted_latency_ms": exported.predicted_latency_ms,
        "measured_latency_ms": exported.latency_ms,
        "drift": exported.measured.drift,
        "note": exported.note,
        "remark": exported.measured.note,
        "throttled": exported.measured.throttled,
        "parity": {name: one.document() for name, one in exported.agreements.items()},
        "engine": exported.engine,
    }


def exported_summary(exported: Exported, budget: Budget) -> str:
    """A few lines on an export."""
    latency = [f"{exported.latency_ms:.3f} ms measured"]
    if exported.predicted_latency_ms is not None:
        latency.append(f"{exported.predicted_latency_ms:.3f} predicted")
    if budget.latency_ms is not None:
        latency.append(f"budget {budget.latency_ms:g}")
    table = "" if exported.note else f" ({exported.measured.latency_ms:.3f} at the speed of the table)"
    lines = [
        f"{exported.folder}: {exported.code} in {exported.precision}",
        "  latency    " + ", ".join(latency) + table,
    ]
    for name, one in exported.agreements.items():
        lines += [f"  agreement  {line}" for line in _agreement(name, one, exported.precision)]
    lines.append(f"  engine     {exported.engine or 'none (ask with --runtime or --compute-capability)'}")
    return "\n".join([*lines, *_notes(exported.note, exported.measured)])


def _notes(note: str | None, measured: ModelLatency) -> list[str]:
    """What else there is to know of a measurement."""
    throttled = f"{measured.throttled} runs were left out: the device was throttled"
    found = (note, measured.note, throttled if measured.throttled else None)
    return [f"  note       {text}" for text in found if text]


def _agreement(runtime: str, found: Agreement, precision: str) -> list[str]:
    exact = precision == "fp32"
    parity = found.exact if exact else found.close
    images = f"on {parity.images} images"
    if parity.agreement is None:
        return [f"{runtime}: not tested, nothing was detected {images}"]
    box, score = f"{parity.box_error_px or 0:.1e} px", f"{parity.score_error or 0:.1e}"
    reference = found.reference_metrics["mAP"] or 0.0
    return [
        f"{runtime}: {parity.agreement:.2%} of {parity.detections} detections {images}, "
        f"boxes to {box}, scores to {score}",
        f"{runtime}: mAP {found.metrics['mAP'] or 0.0:.4f}, in PyTorch {reference:.4f}; "
        f"metrics differ by {found.metric_error:.1e} at most",
    ]


def benchmark_summary(bundle: Path, found: Benchmarked) -> str:
    """A few lines on a bundle measured again."""
    raw, facts = found.measured.raw, found.facts
    lines = [
        f"{bundle}: median {raw.median_ms:.3f} ms, p90 {raw.p90_ms:.3f}, p99 {raw.p99_ms:.3f}, "
        f"{raw.count} runs, coefficient of variation {raw.coefficient_of_variation:.1%}",
        f"  device     {facts['device']}, {facts['runtime']} {facts['runtime_version']}",
        f"  exported   {found.exported_ms:.3f} ms"
        + ("" if found.budget_ms is None else f", budget {found.budget_ms:g}"),
    ]
    return "\n".join([*lines, *_notes(found.note, found.measured)])


def comparison(rows: list[dict[str, Any]]) -> Table:
    """Baseline and winner side by side, one line per number."""
    table = Table("", *(row["name"] for row in rows))
    for label, show in (
        ("code", lambda row: row["code"]),
        ("mAP", lambda row: _number(row["mAP"], ".4f")),
        ("AP50", lambda row: _number(row["AP50"], ".4f")),
        ("latency predicted (ms)", lambda row: _number(row["predicted_latency_ms"], ".3f")),
        ("latency measured (ms)", lambda row: _number(row["measured_latency_ms"], ".3f")),
        ("latency budget (ms)", lambda row: _number(row["budget_latency_ms"], ".3f")),
        ("GMACs", lambda row: f"{row['macs'] / 1e9:.3f}"),
        ("M parameters", lambda row: f"{row['params'] / 1e6:.3f}"),
        ("training iterations", lambda row: str(row["iterations"])),
    ):
        table.add_row(label, *(show(row) for row in rows))
    return table


def _number(value: float | None, form: str) -> str:
    return "not measured" if value is None else format(value, form)
