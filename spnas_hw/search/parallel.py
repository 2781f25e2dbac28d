"""The parallel phase of SP-NAS: sub-networks on the stages of a serial network, sampled at random.

The chance that a stage receives one more sub-network is inversely proportional to the MACs that it adds.
Every sample starts from the serial network's weights, computes its function at birth, and is within the
budget before anything is trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spnas_hw.search.history import History
from spnas_hw.search.journal import Trial
from spnas_hw.search.proposal import Proposal, propose
from spnas_hw.search.searcher import Objections
from spnas_hw.space.architecture import BRANCHES_MAX, Architecture
from spnas_hw.space.codec import encode
from spnas_hw.space.morphism import Morphism, add_branch, unchanged


@dataclass(frozen=True)
class ParallelSettings:
    """How candidates arise: with up to `max_branches` sub-networks in all, their number drawn uniformly.
    Each is trained for `share` times the schedule's iterations."""

    max_sample: int
    max_branches: int = 6
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_sample", "max_branches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.share < math.inf:
            raise ValueError(f"share is {self.share}; it must be above 0")


class ParallelSearcher:
    """Random sub-networks on one serial network, the cheap ones likelier."""

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
        return Proposal(propose(lambda: self._sample(rng), self._refuse), share=self.settings.share)

    def _sample(self, rng: np.random.Generator) -> Morphism:
        room = BRANCHES_MAX * len(self.serial.stages)
        morphism = unchanged(self.serial)
        for _ in range(int(rng.integers(1, min(self.settings.max_branches, room) + 1))):
            here = self.macs(morphism.child)
            steps = [
                add_branch(morphism.child, index)
                for index, stage in enumerate(morphism.child.stages)
                if stage.branches < BRANCHES_MAX
            ]
            odds = np.array([1.0 / (self.macs(step.child) - here) for step in steps])
            morphism = morphism.then(steps[int(rng.choice(len(steps), p=odds / odds.sum()))])
        return morphism

    def _refuse(self, morphism: Morphism) -> tuple[str, ...]:
        if self.history.has(encode(morphism.child)):
            return ("duplicate of an earlier trial",)
        return self.objections(morphism.child)
