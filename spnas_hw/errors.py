"""Everything this package raises on purpose.

SpnasError                  a user can mend it; the command line prints its message in one line
├── InvalidArchitecture     a code or an architecture that cannot be built; knows the position
├── InvalidConfig           an unknown key, a wrong value, a missing file of a configuration
├── MissingWorkload         a latency table lacks keys that an architecture needs
├── InfeasibleBudget        no architecture of the space fits; knows the smallest reachable cost
├── SpaceExhausted          no new candidate was found within the allowed number of tries
├── DataError               a data set is missing, damaged or not what was asked for
├── RunError                a run folder is missing, damaged or belongs to another search
├── TrainingError           a candidate could not be trained or validated
└── ExportError             a detector could not be exported, verified or built
    └── OverBudget          the exported detector measures above the budget

The stand-alone package `profilers` has a tree of its own, rooted at `ProfilerError`.
"""

from __future__ import annotations

from collections.abc import Iterable


class SpnasError(Exception):
    """Root of the tree: the message says what is wrong, with which value, and what to do."""


class InvalidArchitecture(SpnasError):
    """A code or a value that describes no network.

    `position` is the index (from 0) of the offending character in `code`.
    """

    def __init__(self, code: str, position: int, reason: str) -> None:
        self.code, self.position, self.reason = code, position, reason
        shown = code if len(code) <= 80 else f"{code[:77]}..."
        super().__init__(f"invalid architecture {shown!r} at position {position}: {reason}")


class InvalidConfig(SpnasError):
    """A configuration file or option that cannot be used as written."""


class MissingWorkload(SpnasError):
    """The table has no latency for some workloads; nothing is ever interpolated."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.keys = tuple(keys)
        more = f" and {len(self.keys) - 3} more" if len(self.keys) > 3 else ""
        shown = ", ".join(self.keys[:3]) + more
        super().__init__(f"the latency table has no row for {shown}: profile this search space with it")


class InfeasibleBudget(SpnasError):
    """The budget lies below what the space can reach."""


class SpaceExhausted(SpnasError):
    """The bounded proposal loop found no new architecture that fits."""


class DataError(SpnasError):
    """A data set that cannot be read or written."""


class RunError(SpnasError):
    """A run folder that cannot be used."""


class TrainingError(SpnasError):
    """A training or validation that ended without a metric."""


class ExportError(SpnasError):
    """An export that did not produce a verified detector."""


class OverBudget(ExportError):
    """The exported detector is slower or larger than the budget allows."""
