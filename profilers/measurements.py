"""The measurements so far: an append-only file of JSON lines, so that interrupted profiling can go on.

The first line says what is measured, and with what. Then, for every group of networks, a line with the bursts
of the reference network and one line a network; of several lines for the same network the last counts.
Latencies are in units of the reference network. A torn last line (the power went) is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from profilers.errors import InvalidTable, MeasurementFailed
from profilers.manifest import Network
from profilers.stats import LatencyStats


@dataclass(frozen=True)
class Measurement:
    """One network; either `reason` or the numbers. The unit of time is the reference latency."""

    network: Network
    latency: float | None = None
    ci: float | None = None
    stats: LatencyStats | None = None  # its `_ms` are in the same unit
    memory_bytes: int | None = None
    reason: str | None = None

    @property
    def centre(self) -> tuple[float, float] | None:
        """Latency and the half width of its 95 % confidence interval."""
        return None if self.latency is None or self.ci is None else (self.latency, self.ci)

    def __post_init__(self) -> None:
        measured = None not in (self.latency, self.ci, self.stats)
        if measured == (self.reason is not None):
            raise MeasurementFailed("a measurement has either its numbers or a reason")


class Measurements:
    """What is in the file, and the way to add to it.

    Args:
        path: made when it does not exist.
        subject: facts that must be the same to go on with a file: manifest, backend, settings.

    Raises:
        InvalidTable: the file is of another subject, or damaged before its last line.
    """

    def __init__(self, path: Path, subject: Mapping[str, Any]) -> None:
        self.path = path
        self.networks: dict[Network, Measurement] = {}
        self.reference_bursts_ms: list[float] = []
        header = json.dumps(dict(subject), sort_keys=True)
        lines = self._whole_lines()
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append([header])
            return
        if lines[0] != header:
            raise InvalidTable(
                f"{path.name} is of another manifest, backend or settings: remove it to start anew"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, MeasurementFailed) as error:
                raise InvalidTable(
                    f"{path.name}, line {number} is damaged: remove it to start anew"
                ) from error

    @property
    def reference_ms(self) -> float:
        """Median latency of the reference network over everything measured."""
        return float(np.median(self.reference_bursts_ms))

    def add(self, reference_bursts_ms: Sequence[float], measured: Sequence[Measurement]) -> None:
        """Keep a group; it is on the disk when this returns."""
        documents: list[dict[str, Any]] = [{"reference_bursts_ms": list(reference_bursts_ms)}]
        documents += [asdict(measurement) for measurement in measured]
        self._append([json.dumps(document) for document in documents])
        for document in documents:
            self._take(document)

    def remove(self) -> None:
        """Forget the file; the table has been written."""
        self.path.unlink(missing_ok=True)

    def _take(self, document: dict[str, Any]) -> None:
        if "reference_bursts_ms" in document:
            self.reference_bursts_ms += [float(value) for value in document["reference_bursts_ms"]]
            return
        stats = document["stats"] and LatencyStats(**document["stats"])
        network = tuple(document["network"])
        self.networks[network] = Measurement(**document | {"network": network, "stats": stats})

    def _append(self, lines: Sequence[str]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> list[str]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        return whole.decode(errors="replace").splitlines()
