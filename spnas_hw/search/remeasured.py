"""What was predicted of the best trials beside what they take when measured whole."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from spnas_hw.errors import RunError
from spnas_hw.search.journal import write_csv

NAME = "remeasured.csv"
Status = Literal["ok", "over budget", "disturbed", "failed"]
"""Disturbed: above the budget while something else had the device, so that nothing is known."""


@dataclass(frozen=True)
class Remeasured:
    """A network measured as the detector that would be shipped. Latencies are of the clock; `drift` is how
    much slower the device was than when the table was made. All three are None where it failed."""

    arch: str
    mean_ap: float
    predicted_latency_ms: float
    measured_latency_ms: float | None
    measured_p99_ms: float | None
    drift: float | None
    status: Status

    def csv_row(self) -> dict[str, Any]:
        """With the name that mAP has in the other lists."""
        return {"mAP" if name == "mean_ap" else name: value for name, value in asdict(self).items()}


COLUMNS = tuple("mAP" if field.name == "mean_ap" else field.name for field in fields(Remeasured))


def read_remeasured(folder: Path) -> dict[str, Remeasured]:
    """What a run holds, by arch code; empty where nothing was measured. Raises RunError."""
    path = folder / NAME
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        try:
            return {row["arch"]: _remeasured(row) for row in csv.DictReader(file)}
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path} is damaged ({error!r}): remove it and measure again") from error


def write_remeasured(folder: Path, found: Iterable[Remeasured]) -> None:
    """Replaces what a run holds, wholly or not at all."""
    write_csv(folder / NAME, COLUMNS, [one.csv_row() for one in found])


def _remeasured(row: dict[str, str]) -> Remeasured:
    status = row["status"]
    if status not in get_args(Status):
        raise ValueError(f"status {status!r}")
    p50, p99, drift = (_number(row[name]) for name in ("measured_latency_ms", "measured_p99_ms", "drift"))
    if status != "failed" and None in (p50, p99, drift):
        raise ValueError(f"{row['arch']} was not measured")
    mean_ap, predicted = float(row["mAP"]), float(row["predicted_latency_ms"])
    return Remeasured(row["arch"], mean_ap, predicted, p50, p99, drift, cast(Status, status))


def _number(text: str) -> float | None:
    return None if text == "" else float(text)
