"""Latency tables: a folder with `table.csv` (one row a workload) and `provenance.json` (how it was measured).

A number that was not measured is empty in the file and None in memory, never 0. `latency_ms` is the cost of
the workload (a slope, `profilers.manifest`) and is kept as measured: that of a tiny workload may be slightly
negative, within its `latency_ci_ms` and what additivity leaves open (`profilers.costs`). The other statistics
are those of the probe with the largest count, a whole network.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from profilers.errors import InvalidTable, TableMismatch


@dataclass(frozen=True)
class Row:
    """What was measured of one workload; the columns of `table.csv`."""

    key: str
    status: Literal["ok", "failed", "estimated"]  # estimated: reckoned from a data sheet, not measured
    latency_ms: float | None = None
    latency_ci_ms: float | None = None  # of latency_ms, half width of the 95 % confidence interval
    correction_ms: float | None = None  # by whole networks (`profilers.calibration`); None: they tell nothing
    chain_residual: float | None = None  # `profilers.stats.Slope.residual`; None: fewer than three counts
    samples: int | None = None
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    coefficient_of_variation: float | None = None
    throttled: int | None = None  # runs left out because the device was throttled
    rebuild_cv: float | None = (
        None  # coefficient of variation of the same network over builds; a sample of rows
    )
    build_s: float | None = None
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    device_bytes: int | None = None  # growth of the device's used memory when it was loaded, by its driver
    energy_mj: float | None = None  # of one run
    note: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        numbers = [v for v in asdict(self).values() if isinstance(v, float)]
        if not all(math.isfinite(value) for value in numbers):
            raise InvalidTable(f"row {self.key!r} holds a number that is not finite")
        if self.status == "ok" and (self.latency_ms is None or self.latency_ci_ms is None or self.reason):
            raise InvalidTable(f"row {self.key!r} is ok: it needs latency_ms, latency_ci_ms and no reason")
        if self.status == "estimated" and (self.latency_ms is None or self.latency_ci_ms is not None):
            raise InvalidTable(f"row {self.key!r} is estimated: it needs latency_ms and no latency_ci_ms")
        if self.status == "failed" and (self.latency_ms is not None or not self.reason):
            raise InvalidTable(f"row {self.key!r} is failed: it needs a reason and no latency_ms")


COLUMNS = tuple(field.name for field in fields(Row))
_TEXT = ("key", "status", "note", "reason")
_WHOLE = ("samples", "throttled", "weights_bytes", "activation_bytes", "device_bytes")


class Provenance(BaseModel):
    """How a table came to be. Holds no names of hosts or users and no paths."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    device: str = Field(min_length=1)
    runtime: str = Field(min_length=1)
    runtime_version: str
    precision: str
    batch: int = Field(ge=1)
    input_height: int = Field(ge=1)
    input_width: int = Field(ge=1)
    threads: int | None
    estimated: bool = False  # reckoned from data sheets: nothing in the table was measured
    # Median latency of `profilers.reference`; None where nothing was measured, like the manifest's hash.
    reference_ms: float | None = Field(gt=0, allow_inf_nan=False)
    # Of `profilers.calibration`: whole networks measured, and the mean absolute relative errors on them of
    # plain sums, and of corrected sums with the network in question left out.
    calibration_networks: int = Field(default=0, ge=0)
    error_of_sums: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    error_left_out: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")  # UTC
    space_hash: str
    manifest_sha256: str | None
    tool_version: str
    environment: dict[str, Annotated[str | int | float | None, Field(union_mode="smart")]]

    @model_validator(mode="after")
    def _measured_or_estimated(self) -> Provenance:
        if self.estimated != (self.reference_ms is None) or self.estimated != (self.manifest_sha256 is None):
            raise ValueError(
                "a measured table has reference_ms and manifest_sha256, an estimated one neither"
            )
        return self


@dataclass(frozen=True)
class LatencyTable:
    """Measured costs of workloads on one device, runtime, precision, batch and input size."""

    provenance: Provenance
    rows: tuple[Row, ...]

    def costs(self) -> dict[str, float]:
        """Workload key -> latency_ms with its correction, of the rows that have one."""
        return {
            row.key: row.latency_ms + (row.correction_ms or 0.0)
            for row in self.rows
            if row.latency_ms is not None
        }

    def failures(self) -> dict[str, str]:
        """Workload key -> reason, of the rows that are not."""
        return {row.key: row.reason for row in self.rows if row.reason is not None}

    def require(self, **asked: int | str) -> None:
        """Refuse a use the table was not measured for.

        Args:
            asked: fields of the provenance, such as batch, precision, input_height, with the values needed.

        Raises:
            TableMismatch: naming both values.
        """
        for name, value in asked.items():
            if (measured := getattr(self.provenance, name)) != value:
                raise TableMismatch(
                    f"table {self.name()} was measured for {name} {measured}, not {value}: profile again"
                )

    def name(self) -> str:
        """Folder name: device-runtime-precision-b<batch>-<height>x<width>."""
        p = self.provenance
        size = (p.batch, p.input_height, p.input_width)
        return table_name(p.device, p.runtime, p.precision, *size, threads=p.threads)

    def write(self, folder: Path) -> None:
        """Write the folder, replacing an older table there; a reader sees the old one or the new one.

        On return it is on the disk: what it was made of may be removed.
        """
        table = _csv_from_rows(self.rows)
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        old = fresh.with_name(fresh.name + "-old")
        try:
            fresh.chmod(0o755)
            (fresh / "table.csv").write_bytes(table)
            (fresh / "provenance.json").write_bytes(_json_from_provenance(self.provenance, table))
            for path in (*fresh.iterdir(), fresh):
                _sync(path)
            if folder.exists():
                os.replace(folder, old)
            os.replace(fresh, folder)
            _sync(folder.parent)
        finally:  # whatever interrupted it, Ctrl-C included
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            shutil.rmtree(old, ignore_errors=True)
            shutil.rmtree(fresh, ignore_errors=True)

    @classmethod
    def read(cls, folder: Path) -> LatencyTable:
        """Read a table. Raises InvalidTable: one line saying which file is wrong and what to do."""
        table = _read_bytes(folder / "table.csv")
        provenance = _provenance_from_json(_read_bytes(folder / "provenance.json"), folder.name, table)
        return cls(provenance, _rows_from_csv(table, f"{folder.name}/table.csv"))


def table_name(
    device: str, runtime: str, precision: str, batch: int, height: int, width: int, threads: int | None = None
) -> str:
    """`<device>-<runtime>-<precision>-b<batch>-<height>x<width>`, lower-case, words joined by dashes.

    More than one CPU thread belongs to the runtime: `onnxruntime-4-threads`.
    """
    several = f"{threads} threads" if threads is not None and threads > 1 else ""
    text = re.sub(r"\((r|tm|c)\)", " ", f"{device} {runtime} {several} {precision}".lower())
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-") + f"-b{batch}-{height}x{width}"


def _csv_from_rows(rows: tuple[Row, ...]) -> bytes:
    if len({row.key for row in rows}) != len(rows):
        raise InvalidTable("a table holds each workload once; two rows have the same key")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(["" if value is None else value for value in asdict(row).values()])
    return text.getvalue().encode()


def _rows_from_csv(content: bytes, where: str) -> tuple[Row, ...]:
    try:
        header, *lines = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
        if tuple(header) != COLUMNS:
            raise InvalidTable("its columns are not those of this version")
        rows = tuple(_row_from_cells(dict(zip(COLUMNS, cells, strict=True))) for cells in lines)
    except (ValueError, csv.Error, InvalidTable) as error:
        raise InvalidTable(
            f"{where} cannot be read ({error}): copy the folder again or profile again"
        ) from error
    if len({row.key for row in rows}) != len(rows):
        raise InvalidTable(f"{where} holds a workload twice: copy the folder again or profile again")
    return rows


def _row_from_cells(cells: Mapping[str, str]) -> Row:
    values: dict[str, Any] = {}
    for column, cell in cells.items():
        convert = str if column in _TEXT else int if column in _WHOLE else float
        values[column] = convert(cell) if cell else None
    if values["status"] not in ("ok", "failed", "estimated") or not values["key"]:
        raise InvalidTable(f"row {cells['key']!r} has status {cells['status']!r}")
    return Row(**values)


def _json_from_provenance(provenance: Provenance, table: bytes) -> bytes:
    """The document, with the digest of the table and one of the document itself."""
    document = provenance.model_dump(mode="json") | {"table_sha256": hashlib.sha256(table).hexdigest()}
    document["provenance_sha256"] = _digest(document)
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()


def _provenance_from_json(content: bytes, folder: str, table: bytes) -> Provenance:
    mend = "copy the folder again or profile again"
    where = f"{folder}/provenance.json"
    try:
        document = json.loads(content.decode())
        if not isinstance(document, dict) or not content.endswith(b"}\n"):
            raise ValueError("cut short")
        digest, table_digest = document.pop("provenance_sha256", None), document.get("table_sha256")
        edited = digest != _digest(document)
        document.pop("table_sha256", None)
        provenance = Provenance.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidTable(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}: {mend}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidTable(f"{where} cannot be read ({error}): {mend}") from error
    if edited:
        raise InvalidTable(f"{where} was changed after it was written (sha256): {mend}")
    if table_digest != hashlib.sha256(table).hexdigest():
        raise InvalidTable(f"{folder}/table.csv is not the one provenance.json describes (sha256): {mend}")
    return provenance


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk; Windows does not open folders."""
    if sys.platform != "win32":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidTable(
            f"cannot read {path.parent.name}/{path.name} ({error.strerror}): a table is a folder "
            "with table.csv and provenance.json; copy both or profile again"
        ) from error
