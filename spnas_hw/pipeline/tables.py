"""Latency tables as files: what is wrong with one, taking over one from elsewhere, estimating one."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import yaml

from profilers.errors import InvalidTable
from profilers.table import COLUMNS, LatencyTable, Provenance, Row
from spnas_hw import __version__
from spnas_hw.config import SearchConfig, build, configs_folder
from spnas_hw.cost import roofline
from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.roofline import Gpu
from spnas_hw.cost.workload import Overhead, Workload
from spnas_hw.errors import InvalidConfig
from spnas_hw.pipeline.profile import space_hash

_LONGEST_MS = 60_000.0
_ADDITIVITY = 0.1
"""Of the network in the row: how far below zero a latency may be. `profilers.costs` allows 5 % of the slowest
of its networks, which is at most twice as slow."""
_TEXT = ("key", "status", "note", "reason")
_SIGNED = ("latency_ms", "correction_ms")


def problems(folder: Path) -> tuple[str, ...]:
    """What is wrong with the table in `folder`, a line each; empty when it is sound.

    What columns and rows show comes first, then whether a file was changed after it was written.
    """
    found: list[str] = []
    path = folder / "table.csv"
    if path.is_file():
        found += [f"table.csv: {text}" for text in _csv_problems(path.read_bytes())]
    try:
        table = LatencyTable.read(folder)
    except InvalidTable as error:
        # Says less than what was found in the rows, unless it is about another file or the digest.
        if not found or "provenance.json" in str(error):
            text = str(error)
            for name in ("table.csv", "provenance.json"):
                text = text.replace(f"{folder.name}/{name}", name)
            found.append(text)
        return tuple(found)
    return (*found, *(f"table.csv: {text}" for text in _impossible(table)))


def import_table(folder: Path, out: Path, replace: bool) -> Path:
    """Copy a sound table measured elsewhere to `out`/<its own name>; returns that folder.

    Raises:
        InvalidTable: the table is damaged; or another one is there, which stays unless `replace` is given.
    """
    if wrong := problems(folder):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise InvalidTable(f"{folder} is not imported: {wrong[0]}{more}")
    table = LatencyTable.read(folder)
    target = out / table.name()
    if _holds(target, table):
        return target
    if target.exists() and not replace:
        raise InvalidTable(
            f"{target} holds another table: compare with `spnas-hw table diff {target} {folder}`, "
            "then import with --replace"
        )
    table.write(target)
    return target


def known_gpus() -> dict[str, Gpu]:
    """Word -> GPU, of `configs/gpus.yml`. Raises InvalidConfig: an unknown key, a wrong value."""
    path = configs_folder() / "gpus.yml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {word: build(Gpu, figures, f"{path.name}: {word}") for word, figures in document.items()}


def find_gpu(word: str) -> Gpu:
    """The GPU of a word such as V100, or the only one whose name contains it, whatever case and spaces.

    Raises:
        InvalidConfig: none, or several, with what is known.
    """
    gpus = known_gpus()
    wanted = _letters(word)
    for key, gpu in gpus.items():
        if wanted in (_letters(key), _letters(gpu.name)):
            return gpu
    close = [key for key, gpu in gpus.items() if wanted and wanted in _letters(gpu.name)]
    if len(close) == 1:
        return gpus[close[0]]
    what = "more than one GPU" if close else "no GPU"
    raise InvalidConfig(f"{what} named like {word!r} in gpus.yml; known are {', '.join(close or gpus)}")


def estimate(config: SearchConfig, gpu_word: str, precision: str, out: Path) -> Path:
    """Write a table of every workload of the space by the roofline of a data sheet; returns its folder.

    Its rows are `estimated`; everything that only a measurement tells is None.

    Raises:
        InvalidConfig: an unknown GPU or precision; or the folder holds the estimate of another search space.
    """
    gpu = find_gpu(gpu_word)
    loads = closed_set(config.space, config.detector, config.size)
    table = LatencyTable(
        _estimate_provenance(config, gpu, precision),
        tuple(_estimated_row(load, gpu, precision) for load in loads.values()),
    )
    folder = out / table.name()
    if folder.exists() and _space_of(folder) not in (None, table.provenance.space_hash):
        raise InvalidConfig(f"{folder} holds the estimate of another search space: choose another --out")
    table.write(folder)
    return folder


def _estimated_row(load: Workload, gpu: Gpu, precision: str) -> Row:
    return Row(
        load.key,
        "estimated",
        latency_ms=roofline.estimated_ms(load, gpu, precision),
        note=f"estimated, {roofline.bound(load, gpu, precision)}-bound",
    )


def _estimate_provenance(config: SearchConfig, gpu: Gpu, precision: str) -> Provenance:
    return Provenance(
        device=gpu.name,
        runtime="estimate",
        runtime_version=roofline.VERSION,
        precision=precision,
        batch=1,
        input_height=config.input_height,
        input_width=config.input_width,
        threads=None,
        estimated=True,
        reference_ms=None,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        space_hash=space_hash(config),
        manifest_sha256=None,
        tool_version=__version__,
        environment={
            "data_sheet": gpu.source,
            "compute_capability": gpu.compute_capability,
            "peak_tops": gpu.peak_tops(precision),
            "bandwidth_gb_per_s": gpu.bandwidth_gb_per_s,
            "launch_ms": roofline.LAUNCH_MS,
            "may_be_slower_by": roofline.SLOWER,
        },
    )


def _space_of(folder: Path) -> str | None:
    """Hash of the search space of a table; None where there is none that can be read."""
    try:
        return LatencyTable.read(folder).provenance.space_hash
    except InvalidTable:
        return None


def _holds(folder: Path, table: LatencyTable) -> bool:
    try:
        return LatencyTable.read(folder) == table
    except InvalidTable:
        return False


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _csv_problems(content: bytes) -> list[str]:
    """Of the file, before it is read as a table: columns, cut lines, cells that are no number, keys twice."""
    try:
        header, *lines = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        return [f"it is empty, cut short or no CSV ({error})"]
    found = list(_column_problems(header))
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            cut = ": the file is cut short" if number == len(lines) + 1 else ""
            found.append(f"line {number} has {len(cells)} cells, the header {len(header)}{cut}")
        else:
            found += _cell_problems(dict(zip(header, cells, strict=True)))
    if not content.endswith(b"\n") and not found:
        found.append("its last line does not end: the file is cut short")
    keys = Counter(
        cells[header.index("key")] for cells in lines if "key" in header and len(cells) == len(header)
    )
    found += [
        f"key {key!r} occurs {count} times; each workload has one row"
        for key, count in keys.items()
        if count > 1
    ]
    return found


def _column_problems(header: list[str]) -> Iterator[str]:
    missing = [name for name in COLUMNS if name not in header]
    for name in [name for name in header if name not in COLUMNS]:
        stem = name.rpartition("_")[0]
        meant = next((other for other in missing if stem and other.rpartition("_")[0] == stem), None)
        if meant is None:
            yield f"column {name!r} is unknown to this version"
        else:
            missing.remove(meant)
            yield f"column {name!r} is in other units: {meant!r} is wanted"
    if missing:
        yield f"it has no column {', '.join(missing)}: cut, or written by another version; profile again"
    if len(set(header)) != len(header):
        yield "it has a column twice"


def _cell_problems(cells: dict[str, str]) -> Iterator[str]:
    key = cells.get("key", "")
    for column, cell in cells.items():
        if not cell or column in _TEXT or column not in COLUMNS:
            continue
        try:
            value = float(cell)
        except ValueError:
            yield f"row {key!r}: {column} is {cell!r}, no number"
            continue
        if not math.isfinite(value):
            yield f"row {key!r}: {column} is {cell}, not finite"
        elif value < 0 and column not in _SIGNED:
            yield f"row {key!r}: {column} is {cell}; it cannot be negative"


def _impossible(table: LatencyTable) -> Iterator[str]:
    """Values that no measurement gives: the latency below zero beyond what is open, or in other units."""
    reference_ms = table.provenance.reference_ms
    for row in table.rows:
        latency_ms, median_ms = row.latency_ms, row.median_ms
        if latency_ms is None:
            continue
        open_ms = (row.latency_ci_ms or 0.0) + _ADDITIVITY * (median_ms or 0.0)
        what = f"row {row.key!r}: latency_ms {latency_ms:g}"
        if latency_ms < -open_ms:
            ci = row.latency_ci_ms or 0.0
            yield f"{what} is negative beyond its confidence interval +- {ci:g}: profile again"
        elif latency_ms > _LONGEST_MS:
            yield f"{what} is more than a minute: are these microseconds?"
        elif median_ms is not None and latency_ms - open_ms > 1.5 * median_ms:
            yield f"{what} is above median_ms {median_ms:g}, of a network that holds it: units are mixed"
        elif row.key == Overhead().key and reference_ms is not None and latency_ms - open_ms > reference_ms:
            yield f"{what} is above that of the reference network ({reference_ms:g}): are these microseconds?"
        percentiles = [
            value for value in (row.p10_ms, median_ms, row.p90_ms, row.p99_ms) if value is not None
        ]
        if percentiles != sorted(percentiles):
            yield f"row {row.key!r}: p10_ms, median_ms, p90_ms and p99_ms do not ascend"
