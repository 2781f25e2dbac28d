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
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profilers.backends import Backend, Session
from profilers.condition import power_capped, throttled
from profilers.errors import MeasurementFailed
from profilers.measurements import Engine, Loaded, Measurements
from profilers.reference import reference_network
from profilers.stats import burst_ms, checked

Progress = Callable[[float, int], None]
"""Told (networks done, networks in all); the first grows by fractions."""

_OUT_OF_MEMORY = re.compile(
    "out.?of.?memory|memory.?alloc|bad.?alloc|(fail|cannot|could not|unable).{0,20}alloc"
    "|(insufficient|not enough).{0,20}memory",
    re.IGNORECASE,
)
"""How runtimes say that there is too little of it."""

Centres = Mapping[Engine, tuple[float, float]]
"""Latency in units of the reference and the half width of its confidence interval."""


@dataclass(frozen=True)
class Settings:
    """How long to measure; the defaults suit networks of 0.05 to 10 ms and take about 0.35 s for each.

    Attributes:
        warmup_ms: the reference runs this long before anything counts.
        burst_ms: length of a burst; slow networks run three times.
        min_rounds: rounds of every network.
        max_rounds: no more than these, settled or not, throttled or not.
        max_network_ms: after `min_rounds`, a network stops when it ran this long.
        target_ci: a cost is settled when its 95 % confidence interval is within this fraction of it.
        group_networks: networks open at a time.
        group_bytes: size of the models open at a time; see `profilers.protocol.network_groups`.
        attempts: measurements of a workload whose cost comes out negative before it counts as failed.
        rebuilt_rows: so many rows, spread over the range of costs, have their largest network built anew,
        rebuilds: so many times, to see how much one build differs from the next.
        energy_ms: where the device counts energy, the largest network of each row runs this long for it;
            NVML's counter moves every 20 to 100 ms.
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
    rebuilt_rows: int = 6
    rebuilds: int = 2
    energy_ms: float = 3000.0


class Sitting:
    """One device, woken up and warm, with the reference network running on it.

    Every burst that is not throttled goes to `measurements`; a reference burst that is throttled is left out,
    but for the first.
    """

    def __init__(self, backend: Backend, measurements: Measurements, settings: Settings) -> None:
        self.backend = backend
        self.measurements = measurements
        self.settings = settings
        self._reference = backend.load(reference_network())
        # Half a burst is enough: ten of them are looked at together.
        self._iterations = burst_iterations(self._reference, settings.burst_ms / 2)
        spent = 0.0
        while spent < settings.warmup_ms:
            spent += float(checked(self._reference.time_ms(self._iterations)).sum())
        self._last = backend.condition()
        self._is_new = True
        measurements.begin()

    def reference_burst(self) -> None:
        """Time one burst of the reference. Raises MeasurementFailed: the device no longer works."""
        try:
            runs, is_throttled, _ = self.burst(self._reference, self._iterations)
        except MeasurementFailed as error:
            raise MeasurementFailed(
                f"the reference network no longer runs ({error}): look at the device, then give the same "
                "command again"
            ) from error
        if self._is_new or not is_throttled:
            self.measurements.add_reference(burst_ms(runs))
        self._is_new = False

    def burst(self, session: Session, iterations: int) -> tuple[NDArray[np.float64], bool, bool]:
        """Latencies of back-to-back runs; whether the device was throttled; whether at its power limit."""
        # The first run finds the caches full of another network.
        runs = checked(session.time_ms(iterations + 1)[1:])
        before, self._last = self._last, self.backend.condition()
        self.measurements.add_condition(self._last)
        return runs, throttled(before, self._last), power_capped(before, self._last)

    def close(self) -> None:
        self._reference.close()


class Group:
    """Engines open at the same time. One that fails keeps its reason and the others go on.

    Args:
        load: makes the session of an engine when its first turn comes.
    """

    def __init__(self, sitting: Sitting, load: Callable[[Engine], Session]) -> None:
        self._sitting = sitting
        self._settings = sitting.settings
        self._measurements = sitting.measurements
        self._load = load
        self._sessions: dict[Engine, Session] = {}
        self._iterations: dict[Engine, int] = {}

    def measure(
        self,
        engines: Collection[Engine],
        is_settled: Callable[[Engine, Centres], bool],
        progress: Callable[[float], None] = lambda part: None,
    ) -> None:
        """Rounds until every engine is settled or has used up its time; goes on from what was measured.

        Args:
            is_settled: told an engine and what is known of all, says whether it needs no more rounds.
            progress: told how much is done, 0 to 1.
        """
        running = list(engines)
        while True:
            centres = {e: centre for e in engines if (centre := self._measurements.centre(e))}
            running = [engine for engine in running if not self._is_finished(engine, centres, is_settled)]
            progress(1 - sum(self._part_left(engine) for engine in running) / len(engines))
            if not running:
                break
            for engine in running:
                self._turn(engine)
        self._sitting.reference_burst()

    def measure_energy(self, engines: Collection[Engine]) -> None:
        """Energy of one run of each, where the device has a counter; none of one that fails."""
        backend, length_ms = self._sitting.backend, self._settings.energy_ms
        if length_ms <= 0 or backend.condition().energy_mj is None:
            return
        for engine in engines:
            timing = self._measurements.timing(engine)
            if timing.energy_mj is not None or not timing.bursts or timing.reason is not None:
                continue
            runs = math.ceil(length_ms / float(np.median(np.concatenate(timing.bursts))))
            try:
                session = self._session(engine)
                before = backend.condition().energy_mj
                session.time_ms(runs)
            except MeasurementFailed:
                self._drop(engine)
                self._sitting.reference_burst()
                continue
            after = backend.condition().energy_mj
            if before is not None and after is not None and after > before:
                self._measurements.add_energy(engine, (after - before) / runs)

    def close(self) -> None:
        """Close every session."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _turn(self, engine: Engine) -> None:
        try:
            session = self._session(engine)
        except MeasurementFailed as error:
            self._fail(engine, error)
            return
        self._sitting.reference_burst()
        try:
            runs, is_throttled, is_capped = self._sitting.burst(session, self._iterations[engine])
        except MeasurementFailed as error:
            self._fail(engine, error)
            return
        if is_throttled:
            self._measurements.add_throttled(engine, runs.size)
        else:
            self._measurements.add_burst(engine, runs, is_capped)

    def _fail(self, engine: Engine, error: MeasurementFailed) -> None:
        """Keep the reason. Raises MeasurementFailed: the reference fails too, so the device is lost."""
        self._drop(engine)
        try:
            self._sitting.reference_burst()
        except MeasurementFailed:
            self._measurements.add_lost(engine, str(error))
            raise
        self._measurements.add_failed(engine, str(error))

    def _drop(self, engine: Engine) -> None:
        if engine in self._sessions:
            self._sessions.pop(engine).close()

    def _session(self, engine: Engine) -> Session:
        if engine in self._sessions:
            return self._sessions[engine]
        before = self._sitting.backend.condition().used_bytes
        start = time.perf_counter()
        try:
            session = self._load(engine)
        except MeasurementFailed as error:
            if not self._sessions or not _OUT_OF_MEMORY.search(str(error)):
                raise
            self.close()  # the others left too little memory; they come back at their turn
            session = self._load(engine)
        build_s = time.perf_counter() - start
        self._sessions[engine] = session
        self._iterations[engine] = burst_iterations(session, self._settings.burst_ms)
        after = self._sitting.backend.condition().used_bytes
        grown = None if before is None or after is None else max(after - before, 0) or None
        loaded = Loaded(build_s, session.weights_bytes, session.activation_bytes, grown, session.note)
        self._measurements.add_loaded(engine, loaded)
        return session

    def _is_finished(
        self, engine: Engine, centres: Centres, is_settled: Callable[[Engine, Centres], bool]
    ) -> bool:
        timing, settings = self._measurements.timing(engine), self._settings
        if timing.reason is not None or timing.rounds >= settings.max_rounds:
            return True
        enough = len(timing.bursts) >= settings.min_rounds
        return enough and (timing.spent_ms > settings.max_network_ms or is_settled(engine, centres))

    def _part_left(self, engine: Engine) -> float:
        return 1 - self._measurements.timing(engine).rounds / self._settings.max_rounds


def burst_iterations(session: Session, length_ms: float) -> int:
    """Runs that make a burst, from a few runs that also wake the model up."""
    session.time_ms(2)
    latency_ms = float(np.median(checked(session.time_ms(3))))
    return min(max(math.ceil(length_ms / latency_ms), 3), 1000)
