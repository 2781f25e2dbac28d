"""What differs between two latency tables: the same keys side by side, and how each table came to be."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from profilers.table import LatencyTable, Row


@dataclass(frozen=True)
class Pair:
    """One workload in both tables; latencies as measured, without `Row.correction_ms`."""

    a: Row
    b: Row

    @property
    def key(self) -> str:
        return self.a.key

    @property
    def ratio(self) -> float | None:
        """Latency of b / that of a. None: one of them failed, or is not above 0."""
        a, b = self.a.latency_ms, self.b.latency_ms
        if a is None or b is None or a <= 0 or b <= 0:
            return None
        return b / a if 0 < b / a < math.inf else None

    @property
    def is_beyond_intervals(self) -> bool:
        """Whether the two confidence intervals are disjoint. False where one of the rows failed."""
        a, b = self.a, self.b
        if a.latency_ms is None or b.latency_ms is None:
            return False
        return abs(b.latency_ms - a.latency_ms) > (a.latency_ci_ms or 0.0) + (b.latency_ci_ms or 0.0)

    def differs(self, threshold: float) -> bool:
        """Failed in one only; or beyond both intervals, and by more than the fraction `threshold`."""
        if self.a.status != self.b.status:
            return True
        a, b = self.a.latency_ms, self.b.latency_ms
        if a is None or b is None or not self.is_beyond_intervals:
            return False
        return self.ratio is None or max(a, b) > (1 + threshold) * min(a, b)


@dataclass(frozen=True)
class Difference:
    """A field of the provenance with its value in each table; None: it has no such field."""

    field: str
    a: Any
    b: Any


@dataclass(frozen=True)
class Comparison:
    """Table b held against table a."""

    pairs: tuple[Pair, ...]  # in a's order
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    provenance: tuple[Difference, ...]
    speed: float | None  # reference network of b / of a; None: another device or runtime, or an estimate

    @property
    def ratios(self) -> dict[str, float]:
        """Key -> ratio, of the pairs that have one."""
        return {pair.key: pair.ratio for pair in self.pairs if pair.ratio is not None}

    @property
    def median_ratio(self) -> float | None:
        """None: no pair has a ratio."""
        return statistics.median(self.ratios.values()) if self.ratios else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """Key and ratio of the pair furthest from 1, in either direction."""
        return max(self.ratios.items(), key=lambda item: abs(math.log(item[1])), default=None)

    @property
    def sums_ms(self) -> tuple[float, float]:
        """Latencies of a and of b summed over the workloads that are ok in both."""
        latencies = [(pair.a.latency_ms, pair.b.latency_ms) for pair in self.pairs]
        both = [(a, b) for a, b in latencies if a is not None and b is not None]
        return sum(a for a, _ in both), sum(b for _, b in both)

    def differing(self, threshold: float) -> tuple[Pair, ...]:
        """The pairs that differ, see `Pair.differs`."""
        return tuple(pair for pair in self.pairs if pair.differs(threshold))


def compare(a: LatencyTable, b: LatencyTable) -> Comparison:
    """Compare two tables key by key. They may be of different devices; the provenance says so."""
    rows_a, rows_b = ({row.key: row for row in table.rows} for table in (a, b))
    return Comparison(
        pairs=tuple(Pair(row, rows_b[key]) for key, row in rows_a.items() if key in rows_b),
        only_a=tuple(key for key in rows_a if key not in rows_b),
        only_b=tuple(key for key in rows_b if key not in rows_a),
        provenance=_differences(a, b),
        speed=_speed(a, b),
    )


def _speed(a: LatencyTable, b: LatencyTable) -> float | None:
    """Of the same device and runtime the reference network tells how fast it was each time."""
    one, other = a.provenance, b.provenance
    if (
        one.reference_ms is None
        or other.reference_ms is None
        or (one.device, one.runtime) != (other.device, other.runtime)
    ):
        return None
    return other.reference_ms / one.reference_ms


def _differences(a: LatencyTable, b: LatencyTable) -> tuple[Difference, ...]:
    one, other = _flat(a), _flat(b)
    fields = dict.fromkeys([*one, *other])
    pairs = (Difference(field, one.get(field), other.get(field)) for field in fields)
    return tuple(pair for pair in pairs if pair.a != pair.b)


def _flat(table: LatencyTable) -> dict[str, Any]:
    document = table.provenance.model_dump(mode="json")
    environment = document.pop("environment")
    return document | {f"environment.{name}": value for name, value in environment.items()}
