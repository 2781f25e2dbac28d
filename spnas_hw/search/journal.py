"""The journal is the only state of a search: one JSON object a line, appended and synced.

A search resumes by reading it; the CSV files of the reference are views of it. A torn last line, left
by a crash in the middle of a write, is dropped; any other damage is an error.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from spnas_hw.errors import RunError
from spnas_hw.search.pareto import pareto_front

Status = Literal["ok", "failed"]
Phase = Literal["serial", "parallel"]
LatencySource = Literal["predicted", "estimated", "measured"]
"""From a table of measured blocks, from one reckoned from data sheets, or of the whole detector."""
TOTAL_LISTS: dict[Phase, str] = {"serial": "total_list_s.csv", "parallel": "total_list_p.csv"}
CSV_COLUMNS = (
    "arch",
    "worker_id",
    "pre_arch",
    "pre_worker_id",
    "t_start",
    "t_end",
    "t_elapsed",
    "memory",
    "fps",
    "mAP",
    "latency_ms",
    "latency_source",
    "macs",
    "params",
    "operator",
    "status",
)


@dataclass(frozen=True)
class Trial:
    """One candidate, trained and validated, or failed with the reason.

    `rung` counts the promotions to longer training; `why` says how a promotion or a reignition was decided.
    `metrics` maps names as mmdet prints them (`mAP`, `AP50`, `AP_small`, ...) to fractions of 1; what
    was not measured is absent or None. Times are seconds since the epoch. `iterations` counts those
    of the trial and of all the ancestors it inherited from. `parent_id` is None for a seed.
    """

    trial_id: int
    phase: Phase
    code: str
    parent_id: int | None
    parent_code: str | None
    operator: str
    status: Status
    metrics: dict[str, float | None]
    latency_ms: float | None
    latency_source: LatencySource | None
    memory_mb: float
    macs: int
    params: int
    iterations: int
    t_start: float
    t_end: float
    rung: int = 0
    why: str | None = None
    reason: str | None = None

    @property
    def mean_ap(self) -> float | None:
        """COCO mAP as a fraction of 1, or None where the trial has none."""
        return self.metrics.get("mAP") if self.status == "ok" else None

    def csv_row(self) -> dict[str, Any]:
        """The trial under the reference's column names; memory in MiB, empty where not measured."""
        return {
            "arch": self.code,
            "worker_id": self.trial_id,
            "pre_arch": self.parent_code,
            "pre_worker_id": -1 if self.parent_id is None else self.parent_id,
            "t_start": f"{self.t_start:.3f}",
            "t_end": f"{self.t_end:.3f}",
            "t_elapsed": f"{self.t_end - self.t_start:.3f}",
            "memory": f"{self.memory_mb:.3f}",
            "fps": None if self.latency_ms is None else f"{1000 / self.latency_ms:.3f}",
            "mAP": self.mean_ap,
            "latency_ms": self.latency_ms,
            "latency_source": self.latency_source,
            "macs": self.macs,
            "params": self.params,
            "operator": self.operator,
            "status": self.status,
        }


class Journal:
    """An append-only file of trials below a header that names the search it belongs to."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Opens `path`, or creates it with `header`.

        Raises:
            RunError: the file is damaged, or its header differs from `header`.
        """
        self.path = path
        self.trials: list[Trial] = []
        if path.exists() and b"\n" in path.read_bytes():  # otherwise not even the header was written
            found, self.trials = _read(path)
            changed = sorted(k for k in {*found, *header} if found.get(k) != header.get(k))
            if changed:
                raise RunError(
                    f"{path} belongs to a search with another {', '.join(changed)}: "
                    "give this search a run folder of its own"
                )
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(header)

    def append(self, trial: Trial) -> None:
        """Adds a trial and waits until it is on the disk."""
        self._append(asdict(trial))
        self.trials.append(trial)

    def _append(self, document: dict[str, Any]) -> None:
        line = (json.dumps(document, sort_keys=True, allow_nan=False) + "\n").encode()
        torn = self.path.exists() and _torn_bytes(self.path.read_bytes())
        with open(self.path, "r+b" if self.path.exists() else "xb") as file:
            file.seek(0, os.SEEK_END)
            if torn:
                file.seek(-torn, os.SEEK_END)
                file.truncate()
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path) -> tuple[dict[str, Any], list[Trial]]:
    """The header and the trials of a journal.

    Raises:
        RunError: there is none, or a line other than a torn last one is damaged.
    """
    if not path.exists():
        raise RunError(f"{path.parent} is no run folder: it has no {path.name}")
    return _read(path)


def write_views(trials: Iterable[Trial], folder: Path) -> None:
    """Derives `total_list_s.csv`, `total_list_p.csv` (when there is a parallel phase) and
    `pareto_front.csv` (mAP against latency, memory and MACs) from the trials."""
    trials = list(trials)
    for phase, name in TOTAL_LISTS.items():
        chosen = [trial for trial in trials if trial.phase == phase]
        if chosen:
            write_csv(folder / name, CSV_COLUMNS, [trial.csv_row() for trial in chosen])
    write_csv(folder / "pareto_front.csv", CSV_COLUMNS, [trial.csv_row() for trial in front(trials)])


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """The validated trials, best mAP first; the earlier of equals first."""
    validated = [trial for trial in trials if trial.mean_ap is not None]
    return sorted(validated, key=lambda trial: (-(trial.mean_ap or 0.0), trial.trial_id))


def best_of_each(trials: Iterable[Trial]) -> list[Trial]:
    """As `ranked`, each network once."""
    best: dict[str, Trial] = {}
    for trial in ranked(trials):
        best.setdefault(trial.code, trial)
    return list(best.values())


def front(trials: Iterable[Trial]) -> list[Trial]:
    """The validated trials that no other beats in mAP, latency, memory and MACs together, best mAP first."""

    def objectives(trial: Trial) -> tuple[float, ...]:
        latency_ms = math.inf if trial.latency_ms is None else trial.latency_ms
        return (trial.mean_ap or 0.0, -latency_ms, -trial.memory_mb, -float(trial.macs))

    validated = [trial for trial in trials if trial.mean_ap is not None]
    return sorted(pareto_front(validated, objectives), key=lambda trial: -(trial.mean_ap or 0.0))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """Replaces a CSV file, wholly or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    partial = path.with_suffix(".csv.partial")
    partial.write_text(text.getvalue())
    os.replace(partial, path)


def _torn_bytes(content: bytes) -> int:
    """How many bytes follow the last line end."""
    return len(content) - (content.rfind(b"\n") + 1)


def _read(path: Path) -> tuple[dict[str, Any], list[Trial]]:
    content = path.read_bytes()
    lines = content[: len(content) - _torn_bytes(content)].splitlines()
    documents = []
    for number, line in enumerate(lines, 1):
        try:
            document = json.loads(line)
            if not isinstance(document, dict):
                raise ValueError("not an object")
            if number > 1 and {*document} != {f.name for f in fields(Trial)}:
                raise ValueError("not a trial")
        except ValueError as error:
            raise RunError(
                f"{path} line {number} is damaged ({error}): restore it or start a new run"
            ) from error
        documents.append(document)
    if not documents:
        raise RunError(f"{path} has no header line: remove the run folder and start again")
    return documents[0], [Trial(**document) for document in documents[1:]]
