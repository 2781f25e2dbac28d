"""The serial phase of SP-NAS: swap and expand a grown network, train briefly, keep the best, reignite.

Parents are drawn among the `max_optimal` best trials, the better the likelier; a candidate is the
result of up to `num_mutate` operators and satisfies the space and the budget before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spnas_hw.search.history import History
from spnas_hw.search.journal import Trial
from spnas_hw.search.proposal import Proposal
from spnas_hw.search.searcher import Objections
from spnas_hw.search.surrogate import chosen
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, add_stage, change_block, expand, shrink, swap, unchanged, widen
from spnas_hw.space.search_space import SearchSpace

REIGNITIONS_MAX = 2


def _other_block(architecture: Architecture, space: SearchSpace, rng: np.random.Generator) -> Morphism:
    others = [block for block in space.blocks if block != architecture.block]
    if not others:
        raise ValueError("the space has no other block type")
    return change_block(architecture, others[int(rng.integers(len(others)))])


OPERATORS: dict[str, Callable[[Architecture, SearchSpace, np.random.Generator], Morphism]] = {
    "expand": lambda architecture, space, rng: expand(architecture, rng),
    "shrink": lambda architecture, space, rng: shrink(architecture, rng),
    "add_stage": lambda architecture, space, rng: add_stage(architecture),
    "change_block": _other_block,
    "widen": lambda architecture, space, rng: widen(architecture, rng),
}
"""Those that have a probability in the settings, `<name>_prob`; what is left is swap's."""


@dataclass(frozen=True)
class SerialSettings:
    """How candidates arise and how far they are trained.

    Args:
        max_sample: trials of the phase in all, promotions and reignitions among them.
        max_optimal: parents are drawn among so many of the best.
        num_mutate: most operators per candidate; 1 to so many, uniformly. Each is drawn anew: expand,
            shrink, add_stage, change_block and widen with their probabilities, swap otherwise.
        candidates: mutants drawn for each trial; the one that the trials so far promise most of is trained.
            1: the first that fits, as the reference does.
        rungs: shares of the schedule's iterations after which a candidate must be among the best to be
            trained further; (1.0,) trains all of them fully, as the reference does.
        keep: one in so many rises to the next rung.
        reignitions: how often, at most, the best backbone is trained on ImageNet when growth is stuck.
        window, min_gain: growth is stuck when mAP rose by no more than `min_gain` in `window` trials.
    """

    max_sample: int
    max_optimal: int = 5
    num_mutate: int = 3
    expand_prob: float = 0.3
    shrink_prob: float = 0.0
    add_stage_prob: float = 0.05
    change_block_prob: float = 0.0
    widen_prob: float = 0.0
    candidates: int = 1
    rungs: tuple[float, ...] = (1.0,)
    keep: int = 3
    reignitions: int = 0
    window: int = 10
    min_gain: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_sample", "max_optimal", "num_mutate", "candidates", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        probabilities = [getattr(self, f"{name}_prob") for name in OPERATORS]
        if min(probabilities) < 0 or sum(probabilities) > 1:
            raise ValueError(f"the operator probabilities {probabilities} must be within 0 and 1 in total")
        if not self.rungs or self.rungs[-1] != 1 or any(b <= a for a, b in pairwise((0.0, *self.rungs))):
            raise ValueError(f"rungs are {self.rungs}; they must rise from above 0 to 1")
        if self.keep < 2:
            raise ValueError(f"keep is {self.keep}; at least one in 2 rises")
        if not 0 <= self.reignitions <= REIGNITIONS_MAX:
            raise ValueError(f"reignitions is {self.reignitions}; it must be 0 to {REIGNITIONS_MAX}")
        if not 0 <= self.min_gain < 1:
            raise ValueError(f"min_gain is {self.min_gain}; it must be at least 0 and below 1")


class SerialSearcher:
    """Swap - expand - reignite over the best trials so far, starting from one network."""

    def __init__(
        self, start: Architecture, space: SearchSpace, settings: SerialSettings, objections: Objections
    ) -> None:
        """`objections` are those of the budget; the space's own are checked as well."""
        self.start, self.space, self.settings, self.objections = start, space, settings, objections
        self.history = History()

    def tell(self, trial: Trial) -> None:
        self.history.add(trial)

    def needed(self) -> set[int]:
        return self.history.needed(self.settings.max_optimal, len(self.settings.rungs))

    def ask(self, rng: np.random.Generator) -> Proposal:
        settings, rungs = self.settings, self.settings.rungs
        parents = self.history.heirs()[: settings.max_optimal]
        if not parents:  # nothing to grow from yet
            return Proposal(unchanged(self.start), rung=len(rungs) - 1)
        promoted = self.history.promotable(len(rungs), settings.keep)
        if promoted is not None:
            rung = promoted.rung + 1
            why = f"among the best one in {settings.keep} of rung {promoted.rung}"
            share = rungs[rung] - rungs[rung - 1]
            return Proposal(unchanged(decode(promoted.code)), rung, share, why=why)
        reignited = sum(trial.operator == "reignite" for trial in self.history.trials)
        stuck = self.history.bottleneck(settings.window, settings.min_gain)
        if stuck is not None and reignited < settings.reignitions:
            best = unchanged(decode(parents[0].code))
            return Proposal(best, rung=len(rungs) - 1, reignite=True, why=stuck)
        return Proposal(self._new(parents, rng), share=rungs[0])

    def _new(self, parents: list[Trial], rng: np.random.Generator) -> Morphism:
        """A candidate that was not tried yet: the most promising of several mutants of good parents."""
        # Linear ranking: among n parents the best is n times as likely as the last.
        weights = np.arange(len(parents), 0, -1, dtype=float)
        weights /= weights.sum()
        grown = [decode(trial.code) for trial in parents]

        def draw() -> Morphism:
            return self._mutate(grown[int(rng.choice(len(grown), p=weights))], rng)

        return chosen(draw, self._refuse, self.settings.candidates, self.history)

    def _mutate(self, parent: Architecture, rng: np.random.Generator) -> Morphism:
        morphism = unchanged(parent)
        for _ in range(int(rng.integers(1, self.settings.num_mutate + 1))):
            morphism = morphism.then(self._operator(morphism.child, rng))
        return morphism

    def _operator(self, architecture: Architecture, rng: np.random.Generator) -> Morphism:
        draw = rng.random()
        for name, act in OPERATORS.items():
            probability: float = getattr(self.settings, f"{name}_prob")
            if draw < probability:
                return act(architecture, self.space, rng)
            draw -= probability
        return swap(architecture, rng)

    def _refuse(self, morphism: Morphism) -> tuple[str, ...]:
        if self.history.has(encode(morphism.child)):
            return ("duplicate of an earlier trial",)
        return self.space.violations(morphism.child) or self.objections(morphism.child)
