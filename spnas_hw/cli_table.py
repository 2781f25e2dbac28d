"""`spnas-hw table`: look at latency tables, check them, compare two, take one over from another machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from profilers.comparison import Comparison, Pair, compare
from profilers.table import LatencyTable, Provenance, Row
from spnas_hw import console

table_app = typer.Typer(help="Latency tables: show, check, diff, import.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of a latency table.")]

WIDTH = 100  # where the output is no terminal; --all takes what it needs
LISTED = 10  # keys in one table only
SHOWN = {  # column -> heading
    "key": "key",
    "latency_ms": "ms",
    "correction_ms": "corr",
    "latency_ci_ms": "±",
    "median_ms": "median_ms",
    "coefficient_of_variation": "cv",
    "samples": "n",
    "note": "note",
}


class Order(str, Enum):
    """What rows are sorted by; latency: the largest first."""

    LATENCY = "latency"
    KEY = "key"


@table_app.command()
def show(
    folder: Folder,
    sort: Annotated[Order | None, typer.Option(help="Default: as in the file.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only the rows that failed, and why.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every column that holds a value.")] = False,
    as_json: console.Json = False,
) -> None:
    """Show a table: how it was made, its rows, their sum and how quiet the device was."""
    table = LatencyTable.read(folder)
    rows = [row for row in table.rows if row.status == "failed" or not failed]
    if sort is Order.KEY:
        rows.sort(key=lambda row: row.key)
    elif sort is Order.LATENCY:
        rows.sort(key=lambda row: float("-inf") if row.latency_ms is None else row.latency_ms, reverse=True)
    if as_json:
        document = {"table": table.name(), "provenance": table.provenance.model_dump(mode="json")}
        console.print_json({**document, "summary": _summary(table), "rows": [asdict(row) for row in rows]})
        return
    screen = _console(3 * WIDTH if every else WIDTH)
    screen.print(_facts(table.provenance))
    if ok := [row for row in rows if row.status == "ok"]:
        screen.print(_rows(ok, _columns(ok, every)))
    for row in rows:
        if row.status == "failed":
            screen.print(Text("failed", "red"), f"{row.key}: {row.reason}", highlight=False)
    screen.print(_summary_text(table), highlight=False)


@table_app.command()
def check(
    folders: Annotated[list[Path], typer.Argument(help="Folders of latency tables.")],
    as_json: console.Json = False,
) -> None:
    """Say what is wrong with tables, a line each: columns, units, values, cut or edited files.

    Exits with 1 when one of them is bad.
    """
    from spnas_hw.pipeline.tables import problems

    found = {str(folder): problems(folder) for folder in folders}
    for folder, lines in found.items():
        for line in lines or [_sound(Path(folder))]:
            if not as_json:
                print(f"{folder}: {line}")
    if as_json:
        console.print_json(
            {"tables": [{"folder": f, "sound": not p, "problems": p} for f, p in found.items()]}
        )
    if any(found.values()):
        raise typer.Exit(1)


@table_app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="Folder of the table to compare with.")],
    b: Annotated[Path, typer.Argument(help="Folder of the table to compare.")],
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Percent. List only rows that differ by more and beyond both confidence intervals; "
            "exit with 1 when there are any, or keys in one table only.",
        ),
    ] = None,
    as_json: console.Json = False,
) -> None:
    """Compare two tables row by row. A ratio above 1: B is slower. ~: within both confidence intervals."""
    found = compare(LatencyTable.read(a), LatencyTable.read(b))
    differing = found.differing((threshold or 0.0) / 100)
    if as_json:
        console.print_json(_diff_document(found, differing if threshold is not None else found.pairs))
    else:
        _print_diff(found, differing, threshold)
    if threshold is not None and (differing or found.only_a or found.only_b):
        raise typer.Exit(1)


@table_app.command("import")
def import_(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Where the table's folder goes.")] = Path("latency_tables"),
    replace: Annotated[bool, typer.Option("--replace", help="Replace another table of that name.")] = False,
) -> None:
    """Check a table that was measured elsewhere and copy it to its place; prints where that is."""
    from spnas_hw.pipeline.tables import import_table

    print(import_table(folder, out, replace))


def _facts(provenance: Provenance) -> Table:
    facts = {
        "device": provenance.device,
        "runtime": f"{provenance.runtime} {provenance.runtime_version}",
        "precision": provenance.precision,
        "batch": provenance.batch,
        "input": f"{provenance.input_height}x{provenance.input_width}",
        "threads": provenance.threads,
        "date": provenance.date,
        "reference": None if provenance.reference_ms is None else f"{provenance.reference_ms:.4f} ms",
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value is not None:
            grid.add_row(name, str(value))
    estimated = Text("estimated from a data sheet, nothing was measured", "yellow")
    grid.add_row("how", estimated if provenance.estimated else "measured")
    return grid


def _columns(rows: list[Row], every: bool) -> list[str]:
    names = [field.name for field in fields(Row) if every or field.name in SHOWN]
    return [name for name in names if name != "status" and any(getattr(r, name) is not None for r in rows)]


def _rows(rows: list[Row], columns: list[str]) -> Table:
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in columns:
        text = name in ("key", "note")
        shown.add_column(SHOWN.get(name, name), justify="left" if text else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(_cell(name, getattr(row, name)) for name in columns))
    return shown


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("coefficient_of_variation", "rebuild_cv", "chain_residual"):
        return f"{value:.1%}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _summary(table: LatencyTable) -> dict[str, Any]:
    variations = {row.key: row.coefficient_of_variation for row in table.rows}
    known = {key: value for key, value in variations.items() if value is not None}
    quietest, noisiest = (pick(known, key=known.__getitem__, default=None) for pick in (min, max))
    return {
        "rows": len(table.rows),
        "failed": len(table.failures()),
        "sum_ms": sum(table.costs().values()),
        "quietest": None if quietest is None else {"key": quietest, "cv": known[quietest]},
        "noisiest": None if noisiest is None else {"key": noisiest, "cv": known[noisiest]},
    }


def _summary_text(table: LatencyTable) -> str:
    found = _summary(table)
    text = f"{found['rows']} rows, {found['failed']} failed, sum {found['sum_ms']:.3f} ms"
    for name in ("quietest", "noisiest"):
        if found[name] is not None:
            text += f"\n{name}: {found[name]['key']}, coefficient of variation {found[name]['cv']:.1%}"
    return text


def _sound(folder: Path) -> str:
    table = LatencyTable.read(folder)
    how = "estimated" if table.provenance.estimated else "measured"
    return f"sound, {len(table.rows)} rows {how}, {len(table.failures())} failed"


def _print_diff(found: Comparison, differing: tuple[Pair, ...], threshold: float | None) -> None:
    screen = _console()
    pairs = found.pairs if threshold is None else differing
    if pairs:
        shown = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        shown.add_column("key", overflow="fold")
        for heading in ("A ms", "±", "B ms", "±", "B/A", ""):
            shown.add_column(heading, justify="right", no_wrap=True)
        for pair in pairs:
            shown.add_row(pair.key, *_latency(pair.a), *_latency(pair.b), *_verdict(pair))
        screen.print(shown)
    for name, keys in (("A", found.only_a), ("B", found.only_b)):
        for key in keys[:LISTED]:
            screen.print(f"only in {name}: {key}", highlight=False)
        if len(keys) > LISTED:
            screen.print(f"only in {name}: {len(keys) - LISTED} more, listed with --json")
    screen.print("\n".join(_diff_summary(found, differing, threshold)), highlight=False)
    if found.provenance:
        shown = Table("provenance", "A", "B", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
        for difference in found.provenance:
            shown.add_row(difference.field, _short(difference.a), _short(difference.b))
        screen.print(shown)


def _diff_summary(found: Comparison, differing: tuple[Pair, ...], threshold: float | None) -> Iterable[str]:
    by = f" and by more than {threshold:g} %" if threshold else ""
    yield f"{len(found.pairs)} keys in both, {len(differing)} differ beyond both confidence intervals{by}"
    if found.worst is not None and found.median_ratio is not None:
        key, ratio = found.worst
        yield f"B/A: median {found.median_ratio:.3f}, worst {ratio:.3f} ({key})"
        a_ms, b_ms = found.sums_ms
        yield f"sum of what is ok in both: A {a_ms:.3f} ms, B {b_ms:.3f} ms"
        if found.speed is not None and found.speed != 1:
            relative = found.median_ratio / found.speed
            yield f"reference network: B/A {found.speed:.3f}; relative to it the median is {relative:.3f}"


def _latency(row: Row) -> tuple[str | Text, str]:
    if row.latency_ms is None:
        return Text("failed", "red"), ""
    return f"{row.latency_ms:.4f}", _cell("latency_ci_ms", row.latency_ci_ms)


def _verdict(pair: Pair) -> tuple[str, str | Text]:
    """The ratio, and whether it is more than noise: `~` as benchstat has it."""
    ratio = "" if pair.ratio is None else f"{pair.ratio:.3f}"
    if not pair.differs(0.0):
        return ratio, "~"
    if pair.a.latency_ms is None or pair.b.latency_ms is None:
        return ratio, Text("!", "red")
    slower = pair.b.latency_ms > pair.a.latency_ms
    return ratio, Text("slower", "red") if slower else Text("faster", "green")


def _diff_document(found: Comparison, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    return {
        "rows": [
            {
                "key": pair.key,
                "a_ms": pair.a.latency_ms,
                "a_ci_ms": pair.a.latency_ci_ms,
                "b_ms": pair.b.latency_ms,
                "b_ci_ms": pair.b.latency_ci_ms,
                "ratio": pair.ratio,
                "beyond_intervals": pair.is_beyond_intervals,
            }
            for pair in pairs
        ],
        "median_ratio": found.median_ratio,
        "worst": None if found.worst is None else {"key": found.worst[0], "ratio": found.worst[1]},
        "sums_ms": {"a": found.sums_ms[0], "b": found.sums_ms[1]},
        "reference_ratio": found.speed,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "provenance": {item.field: {"a": item.a, "b": item.b} for item in found.provenance},
    }


def _short(value: Any) -> str:
    """Digests by their first and last digits."""
    text = "-" if value is None else str(value)
    return re.sub(r"\b([0-9a-f]{6})[0-9a-f]{12,}([0-9a-f]{6})\b", r"\1...\2", text)


def _console(width: int = WIDTH) -> Console:
    return Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False)
