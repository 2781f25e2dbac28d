"""The serial phase of SP-NAS: swap and expand a grown network, train briefly, keep the best.

Parents are drawn among the `max_optimal` best trials, the better the likelier; a candidate is the
result of `num_mutate` operators and satisfies the space and the budget before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from spnas_hw.search.journal import Trial
from spnas_hw.search.proposal import propose
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, add_stage, change_block, expand, swap, unchanged
from spnas_hw.space.search_space import SearchSpace

Objections = Callable[[Architecture], tuple[str, ...]]


class Searcher(Protocol):
    """Proposes and learns; somebody else trains. `tell` may be called with trials of an earlier process."""

    def ask(self, rng: np.random.Generator) -> Morphism:
        """The next candidate, never one that was told already. Raises SpaceExhausted."""

    def tell(self, trial: Trial) -> None:
        """What became of a candidate, successful or failed."""


@dataclass(frozen=True)
class SerialSettings:
    """How candidates arise. Each of the `num_mutate` operators is drawn anew: expand, add_stage and
    change_block with their probabilities, swap otherwise."""

    max_sample: int
    max_optimal: int = 5
    num_mutate: int = 3
    expand_prob: float = 0.3
    add_stage_prob: float = 0.05
    change_block_prob: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_sample", "max_optimal", "num_mutate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        probabilities = (self.expand_prob, self.add_stage_prob, self.change_block_prob)
        if min(probabilities) < 0 or sum(probabilities) > 1:
            raise ValueError(f"the operator probabilities {probabilities} must be within 0 and 1 in total")


class SerialSearcher:
    """Swap - expand over the best trials so far, starting from one network."""

    def __init__(
        self, start: Architecture, space: SearchSpace, settings: SerialSettings, objections: Objections
    ) -> None:
        """`objections` are those of the budget; the space's own are checked as well."""
        self.start, self.space, self.settings, self.objections = start, space, settings, objections
        self._told: dict[str, Trial] = {}

    def tell(self, trial: Trial) -> None:
        self._told[trial.code] = trial

    def ask(self, rng: np.random.Generator) -> Morphism:
        if all(trial.mean_ap is None for trial in self._told.values()):
            return unchanged(self.start)  # nothing to grow from yet
        parents = self._parents()
        # Linear ranking: among n parents the best is n times as likely as the last.
        weights = np.arange(len(parents), 0, -1, dtype=float)
        weights /= weights.sum()
        return propose(
            lambda: self._mutate(parents[int(rng.choice(len(parents), p=weights))], rng), self._refuse
        )

    def _parents(self) -> list[Architecture]:
        ranked = sorted(
            (trial for trial in self._told.values() if trial.mean_ap is not None),
            key=lambda trial: (-(trial.mean_ap or 0.0), trial.trial_id),
        )
        return [decode(trial.code) for trial in ranked[: self.settings.max_optimal]]

    def _mutate(self, parent: Architecture, rng: np.random.Generator) -> Morphism:
        morphism = unchanged(parent)
        for _ in range(self.settings.num_mutate):
            morphism = morphism.then(self._operator(morphism.child, rng))
        return morphism

    def _operator(self, architecture: Architecture, rng: np.random.Generator) -> Morphism:
        settings = self.settings
        draw = rng.random()
        if draw < settings.expand_prob:
            return expand(architecture, rng)
        draw -= settings.expand_prob
        if draw < settings.add_stage_prob:
            return add_stage(architecture)
        draw -= settings.add_stage_prob
        if draw < settings.change_block_prob:
            others = [block for block in self.space.blocks if block != architecture.block]
            if not others:
                raise ValueError("the space has no other block type")
            return change_block(architecture, others[int(rng.integers(len(others)))])
        return swap(architecture, rng)

    def _refuse(self, morphism: Morphism) -> tuple[str, ...]:
        if encode(morphism.child) in self._told:
            return ("duplicate of an earlier trial",)
        return self.space.violations(morphism.child) or self.objections(morphism.child)
