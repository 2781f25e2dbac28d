"""Everything measured so far, in memory and line by line in a file, so that nothing is measured twice.

The first line of the file says what is measured, and with what. Then one JSON object per event, in order:

    {"sitting": "2026-11-22T10:00:00Z"}           a process began; bursts before it are no neighbours
    {"reference_ms": 0.43}                        a burst of the reference network
    {"condition": {..}}                           state of the device after a burst, where it tells
    {"engine": [3, 0], "loaded": {..}}            network 3 of the manifest, build 0: memory, build time, note
    {"engine": [3, 0], "runs_ms": [..]}           a burst; with "capped": true at the device's power limit
    {"engine": [3, 0], "throttled": 12}           a burst of twelve runs, discarded
    {"engine": [3, 0], "energy_mj": 31.5}         energy of one run
    {"engine": [3, 0], "failed": "reason"}        tried once more in the next sitting; then for good
    {"engine": [3, 0], "lost": "reason"}          likewise: the whole device failed with it, maybe by it
    {"again": [[3, 0], ..]}                       forget these

Killed at any moment, a process loses the burst it was in. A torn last line is cut off. The file is locked
while it is open: what two processes measured at once would be neighbours, and are not.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from profilers.condition import Condition
from profilers.errors import InvalidTable, ProfilerError
from profilers.stats import burst_ms, median_ci

if sys.platform != "win32":
    import fcntl

Engine = tuple[int, int]
"""The number of a network in its manifest, and which build of it."""

_TRIES = 2  # sittings in which an engine may fail
_NEIGHBOURS = 5  # reference bursts looked at on either side
_SYNC_S = 1.0  # so much a power failure may cost; a killed process costs nothing that was written


@dataclass(frozen=True)
class Loaded:
    """What is known of an engine once it is loaded and has run; None where nobody tells."""

    build_s: float  # to load, and where the runtime builds, to build
    weights_bytes: int | None = None
    activation_bytes: int | None = None
    device_bytes: int | None = None  # growth of the device's used memory, by its driver
    note: str | None = None


@dataclass
class Timing:
    """The bursts of one engine, ms; `positions[i]` numbers the reference burst right before burst i."""

    loaded: Loaded | None = None
    reason: str | None = None  # why it failed
    failures: int = 0
    energy_mj: float | None = None  # of one run
    bursts: list[NDArray[np.float64]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    throttled_bursts: int = 0
    throttled_runs: int = 0
    capped_bursts: int = 0  # of the bursts, those at the power limit

    @property
    def note(self) -> str | None:
        """What the reader of a row should know."""
        own = None if self.loaded is None else self.loaded.note
        count = f"{self.capped_bursts} of {len(self.bursts)} bursts"
        capped = f"the device was at its power limit in {count}" if self.capped_bursts else None
        return "; ".join(filter(None, (own, capped))) or None

    @property
    def rounds(self) -> int:
        """How often it had its turn."""
        return len(self.bursts) + self.throttled_bursts

    @property
    def spent_ms(self) -> float:
        return sum(float(burst.sum()) for burst in self.bursts)


class Measurements:
    """What was measured, and the way to add to it. Times are in ms, centres in units of the reference.

    Args:
        path: the file, made when it does not exist; None keeps everything in memory only.
        subject: facts that must be the same to go on with a file: manifest, backend, settings.

    Raises:
        InvalidTable: the file is of another subject, or damaged before its last line.
        ProfilerError: another process has it open.
    """

    def __init__(self, path: Path | None = None, subject: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.timings: dict[Engine, Timing] = {}
        self.reference_ms: list[float] = []
        self.conditions: list[Condition] = []
        self._sitting_starts: list[int] = []  # number of the first reference burst of each sitting
        self._file: TextIO | None = None
        self._synced = time.monotonic()
        if path is not None:
            try:
                self._open(path, json.dumps(dict(subject or {}), sort_keys=True))
            except BaseException:
                self.close()
                raise

    def begin(self) -> None:
        """A device has just been woken up; what failed once is tried again."""
        self._add({"sitting": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")})

    def add_reference(self, value_ms: float) -> None:
        self._add({"reference_ms": value_ms})

    def add_condition(self, condition: Condition) -> None:
        if condition != Condition():
            self._add({"condition": asdict(condition)})

    def add_loaded(self, engine: Engine, loaded: Loaded) -> None:
        self._add({"engine": engine, "loaded": asdict(loaded)})

    def add_burst(self, engine: Engine, runs_ms: NDArray[np.float64], capped: bool = False) -> None:
        event = {"engine": engine, "runs_ms": [float(run) for run in runs_ms]}
        self._add(event | {"capped": True} if capped else event)

    def add_throttled(self, engine: Engine, runs: int) -> None:
        self._add({"engine": engine, "throttled": runs})

    def add_energy(self, engine: Engine, energy_mj: float) -> None:
        self._add({"engine": engine, "energy_mj": energy_mj})

    def add_failed(self, engine: Engine, reason: str) -> None:
        self._add({"engine": engine, "failed": reason})

    def add_lost(self, engine: Engine, reason: str) -> None:
        """The device failed while this engine had its turn: maybe the engine's fault, maybe not."""
        self._add({"engine": engine, "lost": reason})

    def forget(self, engines: Iterable[Engine]) -> None:
        """Their bursts count no longer; they are measured again."""
        if again := sorted(engines):
            self._add({"again": again})

    def timing(self, engine: Engine) -> Timing:
        return self.timings.setdefault(engine, Timing())

    def median_reference_ms(self) -> float:
        return float(np.median(self.reference_ms))

    def centre(self, engine: Engine) -> tuple[float, float] | None:
        """Latency in units of the reference, and the half width of its 95 % confidence interval.

        None: it failed or was not measured.
        """
        timing = self.timings.get(engine)
        if timing is None or timing.reason is not None or not timing.bursts:
            return None
        ratios = np.array([burst_ms(burst) for burst in timing.bursts]) / self._local_ms(timing.positions)
        return float(np.median(ratios)), median_ci(ratios)

    def samples(self, engine: Engine) -> NDArray[np.float64]:
        """Every run in units of the local reference."""
        timing = self.timings[engine]
        pairs = zip(timing.bursts, self._local_ms(timing.positions), strict=True)
        return np.concatenate([burst / local for burst, local in pairs])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def remove(self) -> None:
        """Forget the file; the table has been written."""
        self.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _local_ms(self, positions: Sequence[int]) -> NDArray[np.float64]:
        """Latency of the reference around the gaps that follow its bursts of these numbers."""
        bursts = np.array(self.reference_ms)
        at = np.asarray(positions)
        near = at[:, None] + np.arange(1 - _NEIGHBOURS, 1 + _NEIGHBOURS)
        edges = np.array([*self._sitting_starts, bursts.size])
        sitting = np.searchsorted(edges, at, side="right")
        first, last = edges[np.maximum(sitting - 1, 0)], edges[np.minimum(sitting, edges.size - 1)]
        exists = (near >= first[:, None]) & (near < last[:, None])
        local = np.where(exists, bursts[np.clip(near, 0, bursts.size - 1)], np.nan)
        return np.asarray(np.nanmedian(local, axis=1))

    def _add(self, event: dict[str, Any]) -> None:
        self._take(event)
        if self._file is not None:
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()

    def _take(self, event: Mapping[str, Any]) -> None:
        if "sitting" in event:
            self._sitting_starts.append(len(self.reference_ms))
            for timing in self.timings.values():
                timing.reason = timing.reason if timing.failures >= _TRIES else None
        elif "reference_ms" in event:
            self.reference_ms.append(float(event["reference_ms"]))
        elif "condition" in event:
            self.conditions.append(_condition(event["condition"]))
        elif "again" in event:
            for network, build in event["again"]:
                self.timings.pop((int(network), int(build)), None)
        else:
            self._take_timing(event)

    def _take_timing(self, event: Mapping[str, Any]) -> None:
        network, build = event["engine"]
        timing = self.timing((int(network), int(build)))
        if "loaded" in event:
            timing.loaded = Loaded(**event["loaded"])
        elif "runs_ms" in event:
            timing.bursts.append(np.array(event["runs_ms"], dtype=np.float64))
            timing.positions.append(len(self.reference_ms) - 1)
            timing.capped_bursts += bool(event.get("capped"))
        elif "throttled" in event:
            timing.throttled_bursts += 1
            timing.throttled_runs += int(event["throttled"])
        elif "energy_mj" in event:
            timing.energy_mj = float(event["energy_mj"])
        else:
            lost = event.get("lost")
            timing.reason = str(event["failed"]) if lost is None else f"the device was lost with it: {lost}"
            timing.failures += 1

    def _open(self, path: Path, header: str) -> None:
        """Locks the file, and takes what is in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ProfilerError(
                    f"another process is writing {path.name}: wait for it, or measure into another folder"
                ) from error
        lines = _whole_lines(path)
        if lines and lines[0] != header:
            raise InvalidTable(
                f"{path.name} is of another manifest, backend or settings ({_different(lines[0], header)}): "
                "remove it to start anew"
            )
        for number, line in enumerate(lines[1:], start=2):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidTable(
                    f"{path.name}, line {number} is damaged: remove it to start anew"
                ) from error
        if not lines:
            self._file.write(header + "\n")
            self._file.flush()


def _different(header: str, other: str) -> str:
    """Names of what is not the same in two subjects."""
    try:
        first, second = (one.pop("backend", {}) | one for one in map(json.loads, (header, other)))
    except (ValueError, TypeError, AttributeError):
        return "its first line is damaged"
    return ", ".join(sorted(key for key in {*first, *second} if first.get(key) != second.get(key)))


def _condition(document: Mapping[str, Any]) -> Condition:
    reasons = document["throttle_reasons"]
    return Condition(**{**document, "throttle_reasons": None if reasons is None else tuple(reasons)})


def _whole_lines(path: Path) -> list[str]:
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    return whole.decode(errors="replace").splitlines()
