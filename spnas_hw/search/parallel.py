"""The parallel phase of SP-NAS: sub-networks on the stages of a serial network.

The chance that a stage receives one more sub-network is inversely proportional to the MACs that it adds.
Every candidate starts from the serial network's weights, computes its function at birth, and is within the
budget before anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spnas_hw.search.history import History
from spnas_hw.search.journal import Trial
from spnas_hw.search.proposal import Proposal
from spnas_hw.search.searcher import Objections
from spnas_hw.search.surrogate import chosen
from spnas_hw.space.architecture import BRANCHES_MAX, Architecture
from spnas_hw.space.codec import encode
from spnas_hw.space.morphism import Morphism, add_branch, unchanged


@dataclass(frozen=True)
class ParallelSettings:
    """How candidates arise and how far they are trained.

    Args:
        max_sample: trials of the phase in all.
        max_branches: most sub-networks in all; 1 to so many, uniformly.
        own_prob: the probability that the sub-networks of a stage own their weights; otherwise they share
            the stage's, as in the published networks.
        candidates: samples drawn for each trial; the one that the trials so far promise most of is trained.
            1: the first that fits, as the reference does.
        share: of the schedule's iterations, for which each is trained.
    """

    max_sample: int
    max_branches: int = 6
    own_prob: float = 0.5
    candidates: int = 1
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_sample", "max_branches", "candidates"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.own_prob <= 1:
            raise ValueError(f"own_prob is {self.own_prob}; it must be within 0 and 1")
        if not 0 < self.share < math.inf:
            raise ValueError(f"share is {self.share}; it must be above 0")


class ParallelSearcher:
    """Sub-networks on one serial network, the cheap ones likelier."""

    def __init__(
        self,
        serial: Architecture,
        trained: bool,
        settings: ParallelSettings,
        macs: Callable[[Architecture], int],
        objections: Objections,
    ) -> None:
        """
        Args:
            serial: what the sub-networks are stacked on.
            trained: whether there are weights of it; otherwise it is the first to be asked for.
            macs: of the whole detector.
        """
        if not serial.is_serial:
            raise ValueError(f"{encode(serial)} has sub-networks already: start from a serial network")
        self.serial, self.trained, self.settings = serial, trained, settings
        self.macs, self.objections = macs, objections
        self.history = History()

    def tell(self, trial: Trial) -> None:
        self.history.add(trial)

    def needed(self) -> set[int]:
        start = {t.trial_id for t in self.history.trials if t.code == encode(self.serial)}
        return start | {trial.trial_id for trial in self.history.heirs()[:1]}

    def ask(self, rng: np.random.Generator) -> Proposal:
        if not self.trained and not self.history.validated():  # perhaps tried, and failed
            return Proposal(unchanged(self.serial))
        morphism = chosen(lambda: self._sample(rng), self._refuse, self.settings.candidates, self.history)
        return Proposal(morphism, share=self.settings.share)

    def _sample(self, rng: np.random.Generator) -> Morphism:
        stages = len(self.serial.stages)
        own = [bool(owns) for owns in rng.random(stages) < self.settings.own_prob]
        counts = [0] * stages
        for _ in range(int(rng.integers(1, min(self.settings.max_branches, BRANCHES_MAX * stages) + 1))):
            open_stages = [i for i in range(stages) if counts[i] < BRANCHES_MAX]
            odds = np.array([1.0 / self._added_macs[i] for i in open_stages])
            counts[open_stages[int(rng.choice(len(open_stages), p=odds / odds.sum()))]] += 1
        morphism = unchanged(self.serial)
        for stage, count in enumerate(counts):  # in this order nothing is lost
            if count:
                morphism = morphism.then(add_branch(morphism.child, stage, own[stage], count))
        return morphism

    @cached_property
    def _added_macs(self) -> list[int]:
        """What one sub-network more at a stage adds, however many there are."""
        here = self.macs(self.serial)
        return [
            self.macs(add_branch(self.serial, stage).child) - here for stage in range(len(self.serial.stages))
        ]

    def _refuse(self, morphism: Morphism) -> tuple[str, ...]:
        if self.history.has(encode(morphism.child)):
            return ("duplicate of an earlier trial",)
        return self.objections(morphism.child)
