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
Status = Literal["ok", "over budget"]


@dataclass(frozen=True)
class Remeasured:
    """A network measured as the detector that would be shipped. Latencies are of the clock; `drift` is how
    much slower the device was than when the table was made."""

    arch: str
    mean_ap: float
    predicted_latency_ms: float
    measured_latency_ms: float
    measured_p99_ms: float
    drift: float
    status: Status

    def csv_row(self) -> dict[str, Any]:
        """With the name that mAP has in the other lists."""
        return {"mAP" if name == "mean_ap" else name: value for name, value in asdict(self).items()}


NUMBERS = tuple(field.name for field in fields(Remeasured) if field.type == "float")
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
    if row["status"] not in get_args(Status):
        raise ValueError(f"status {row['status']!r}")
    numbers = {name: float(row["mAP" if name == "mean_ap" else name]) for name in NUMBERS}
    return Remeasured(arch=row["arch"], status=cast(Status, row["status"]), **numbers)
