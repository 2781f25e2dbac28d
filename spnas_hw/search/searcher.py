"""The contract between what proposes candidates and what trains them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np

from spnas_hw.search.journal import Trial
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.architecture import Architecture

Objections = Callable[[Architecture], tuple[str, ...]]
"""Why an architecture is no candidate; empty when it is one."""


class Searcher(Protocol):
    """Proposes and learns; somebody else trains. `tell` may be called with trials of an earlier process."""

    def ask(self, rng: np.random.Generator) -> Proposal:
        """The next candidate: a new one, or an earlier one to train further. Raises SpaceExhausted."""

    def tell(self, trial: Trial) -> None:
        """What became of a candidate, successful or failed."""

    def needed(self) -> set[int]:
        """The trials whose weights a later proposal may start from."""
