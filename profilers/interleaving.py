"""Rounds: the open networks of a group take turns with the reference network, and are expressed in it.

In each round every network that is not settled runs one *burst* of back-to-back runs, between two bursts of
the reference. A burst gives one value, its lower quartile, and that value is divided by the *local
reference*, the median of the ten nearest bursts of the reference. The latency of a network is the median of
these ratios over the rounds; the reference's own median turns it back into ms.

Why so, from chains of residual blocks timed twice on a shared virtual machine for 20 rounds, quiet and
beside foreign load (largest difference of a slope between the two times):
- the lower quartile of a burst leaves out runs that were interrupted; its median does so less (2 % against
  4 % beside load; after 8 rounds 7 % against 35 %). The minimum over all rounds catches rare fast phases of
  the processor, a different number of them each time (12 %, quiet).
- without the reference 3 % quiet, 7 % beside load and 10 % between the two, as the speed of the machine
  changes; in units of the reference 2, 2 and 5 %. Divided by the two neighbouring bursts alone instead of
  ten, their noise is added: 4 % beside load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from profilers.backends import Backend, Session
from profilers.errors import MeasurementFailed
from profilers.reference import reference_network
from profilers.stats import checked, median_ci

Name = TypeVar("Name")

_NEIGHBOURS = 5  # reference bursts looked at on either side


@dataclass(frozen=True)
class Settings:
    """How long to measure; the defaults suit networks of 0.05 to 10 ms and take about 0.35 s for each.

    Attributes:
        warmup_ms: the reference runs this long before anything counts.
        burst_ms: length of a burst; slow networks run three times.
        min_rounds: rounds of every network.
        max_rounds: no more than these, settled or not.
        max_network_ms: after `min_rounds`, a network stops when it ran this long.
        target_ci: a cost is settled when its 95 % confidence interval is within this fraction of it.
        group_networks: networks open at a time.
        group_bytes: size of the models open at a time; one workload's networks are never parted.
        attempts: measurements of a workload whose cost comes out negative before it counts as failed.
    """

    warmup_ms: float = 300.0
    burst_ms: float = 8.0
    min_rounds: int = 8
    max_rounds: int = 20
    max_network_ms: float = 1000.0
    target_ci: float = 0.01
    group_networks: int = 64
    group_bytes: int = 1 << 29
    attempts: int = 3


class Reference:
    """The reference network on a backend, and every burst of it so far."""

    def __init__(self, backend: Backend, settings: Settings) -> None:
        self.bursts_ms: list[float] = []
        self._session = backend.load(reference_network())
        # Half a burst is enough: ten of them are looked at together.
        self._iterations = burst_iterations(self._session, settings.burst_ms / 2)
        spent = 0.0
        while spent < settings.warmup_ms:
            spent += float(checked(self._session.time_ms(self._iterations)).sum())

    def burst(self) -> None:
        """Time one burst, the first run of which only warms the caches."""
        self.bursts_ms.append(burst_ms(self._session.time_ms(self._iterations + 1)[1:]))

    def local_ms(self, positions: Sequence[int]) -> NDArray[np.float64]:
        """Latency of the reference around the gaps that follow its bursts of these numbers."""
        bursts = np.array(self.bursts_ms)
        near = np.asarray(positions)[:, None] + np.arange(1 - _NEIGHBOURS, 1 + _NEIGHBOURS)
        exists = (near >= 0) & (near < bursts.size)
        local = np.where(exists, bursts[np.clip(near, 0, bursts.size - 1)], np.nan)
        return np.asarray(np.nanmedian(local, axis=1))

    def close(self) -> None:
        self._session.close()


@dataclass
class Timing:
    """The bursts of one network; `positions[i]` is the reference burst right before burst i."""

    memory_bytes: int | None = None
    reason: str | None = None  # why it failed
    bursts: list[NDArray[np.float64]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    def centre(self, reference: Reference) -> tuple[float, float]:
        """Latency in units of the reference, and the half width of its 95 % confidence interval."""
        ratios = np.array([burst_ms(burst) for burst in self.bursts]) / reference.local_ms(self.positions)
        return float(np.median(ratios)), median_ci(ratios)

    def samples(self, reference: Reference) -> NDArray[np.float64]:
        """Every run in units of the local reference."""
        pairs = zip(self.bursts, reference.local_ms(self.positions), strict=True)
        return np.concatenate([burst / local for burst, local in pairs])


class Group(Generic[Name]):
    """Networks open at the same time. A network that fails keeps its reason and the others go on."""

    def __init__(self, reference: Reference, settings: Settings) -> None:
        self.reference = reference
        self.settings = settings
        self.timings: dict[Name, Timing] = {}
        self._sessions: dict[Name, Session] = {}
        self._iterations: dict[Name, int] = {}

    def open(self, name: Name, load: Callable[[], Session]) -> None:
        """Load a network and run it a few times."""
        timing = self.timings[name] = Timing()
        try:
            session = self._sessions[name] = load()
            self._iterations[name] = burst_iterations(session, self.settings.burst_ms)
            timing.memory_bytes = session.memory_bytes
        except MeasurementFailed as error:
            self._fail(name, error)

    def measure(
        self,
        is_settled: Callable[[Name, Mapping[Name, tuple[float, float]]], bool],
        progress: Callable[[float], None] = lambda part: None,
    ) -> None:
        """Rounds until every network is settled or has used up its time.

        Args:
            is_settled: told a network and the `Timing.centre` of all so far, says whether it needs no more.
            progress: told how much of the rounds is done, 0 to 1.
        """
        running = list(self._sessions)
        for done in range(self.settings.max_rounds):
            if done:
                self.reference.burst()
                progress(done / self.settings.max_rounds)
            if done >= self.settings.min_rounds:
                centres = {name: self.timings[name].centre(self.reference) for name in self._sessions}
                running = [
                    name for name in running if not (self._is_spent(name) or is_settled(name, centres))
                ]
            for name in running:
                self.reference.burst()
                self._burst(name)
            running = [name for name in running if name in self._sessions]
            if not running:
                break
        self.reference.burst()
        progress(1.0)

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _burst(self, name: Name) -> None:
        timing = self.timings[name]
        try:
            # The first run finds the caches full of another network.
            runs = checked(self._sessions[name].time_ms(self._iterations[name] + 1)[1:])
        except MeasurementFailed as error:
            self._fail(name, error)
            return
        timing.bursts.append(runs)
        timing.positions.append(len(self.reference.bursts_ms) - 1)

    def _is_spent(self, name: Name) -> bool:
        return sum(float(burst.sum()) for burst in self.timings[name].bursts) > self.settings.max_network_ms

    def _fail(self, name: Name, error: MeasurementFailed) -> None:
        self.timings[name].reason = str(error)
        if name in self._sessions:
            self._sessions.pop(name).close()


def burst_ms(runs_ms: NDArray[np.float64]) -> float:
    """The value of a burst: its lower quartile."""
    return float(np.percentile(checked(runs_ms), 25))


def burst_iterations(session: Session, length_ms: float) -> int:
    """Runs that make a burst, from a few runs that also wake the model up."""
    session.time_ms(2)
    latency_ms = float(np.median(checked(session.time_ms(3))))
    return min(max(math.ceil(length_ms / latency_ms), 3), 1000)
