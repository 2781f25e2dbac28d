"""The strategies of both phases, each a `Searcher`. All start from the same network.

What differs between the phases is in serial_strategies.py and parallel_strategies.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.pntx import TwoPointCrossover
from pymoo.operators.mutation.bitflip import BitflipMutation
from pymoo.problems.static import StaticProblem

from spnas_hw.errors import SpaceExhausted
from spnas_hw.search.history import History
from spnas_hw.search.journal import Trial
from spnas_hw.search.proposal import Proposal, propose
from spnas_hw.search.searcher import Searcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, unchanged

Mutation: TypeAlias = Callable[[Architecture, np.random.Generator], Morphism]
"""One step away from a parent. A ValueError says that it cannot act on this one."""


class Genome(Protocol):
    """Architectures as bits. Several genomes may have one code; some may have a code of no architecture."""

    length: int

    def code(self, bits: np.ndarray) -> str: ...

    def bits(self, code: str) -> np.ndarray: ...


@dataclass(frozen=True)
class OfPhase:
    """What differs between the phases.

    `ours` takes the number of candidates drawn for each trial. `population` is NSGA-II's, of the size that
    serves it best.
    """

    ours: Callable[[int], Searcher]
    ancestor: Callable[[], Searcher]
    mutate: Mutation
    genome: Genome
    population: int


class Rival:
    """What all rivals share: they train the start network first, nothing twice, nothing infeasible."""

    def __init__(self, start: Architecture, codes: Sequence[str]) -> None:
        """`codes`: the feasible architectures."""
        self.start, self.codes = start, codes
        self.feasible = frozenset(codes)
        self.history = History()

    def tell(self, trial: Trial) -> None:
        self.history.add(trial)

    def needed(self) -> set[int]:
        return set()

    def ask(self, rng: np.random.Generator) -> Proposal:
        if not self.history.trials:
            return Proposal(unchanged(self.start))
        return Proposal(propose(lambda: self.draw(rng), self.refuse))

    def draw(self, rng: np.random.Generator) -> Morphism:
        """A candidate, perhaps infeasible. A ValueError counts as one that is."""
        raise NotImplementedError

    def refuse(self, morphism: Morphism) -> tuple[str, ...]:
        code = encode(morphism.child)
        if self.history.has(code):
            return ("duplicate of an earlier trial",)
        return () if code in self.feasible else ("infeasible",)


class RandomSearch(Rival):
    """Uniform over the feasible architectures, without repetition."""

    def draw(self, rng: np.random.Generator) -> Morphism:
        return unchanged(decode(self.codes[int(rng.integers(len(self.codes)))]))


class RegularisedEvolution(Rival):
    """Real et al. 2019: mutate the best of a sample of the population; the oldest dies.

    The first population is random, but for the start network. Of populations of 4 to 20 and samples of 2 to
    10 these end best in both phases.
    """

    def __init__(
        self,
        start: Architecture,
        codes: Sequence[str],
        mutate: Mutation,
        population: int = 10,
        sample: int = 5,
    ) -> None:
        super().__init__(start, codes)
        self.mutate = mutate
        self.population: deque[Trial] = deque(maxlen=population)
        self.sample = sample

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        self.population.append(trial)

    def draw(self, rng: np.random.Generator) -> Morphism:
        if len(self.population) < (self.population.maxlen or 0):
            return unchanged(decode(self.codes[int(rng.integers(len(self.codes)))]))
        drawn = rng.choice(len(self.population), self.sample, replace=False)
        parent = max((self.population[int(i)] for i in drawn), key=lambda trial: trial.mean_ap or 0.0)
        return self.mutate(decode(parent.code), rng)


class Nsga2(Rival):
    """NSGA-II (Deb et al. 2002) of pymoo, maximising mAP and minimising MACs.

    Children that are infeasible or known are drawn again by pymoo's own mating, which bounds its tries; the
    first population is random, but for the start network.
    """

    def __init__(self, start: Architecture, codes: Sequence[str], genome: Genome, population: int) -> None:
        super().__init__(start, codes)
        self.genome = genome
        self.problem = Problem(n_var=genome.length, n_obj=2, xl=0, xu=1, vtype=bool)
        self.size = population
        self.algorithm: NSGA2 | None = None
        self.batch: list[Trial] = []
        self.asked = None

    def ask(self, rng: np.random.Generator) -> Proposal:
        if self.algorithm is None:
            self.algorithm = self._begin(rng)
        if self.asked is None:
            self.algorithm.random_state = rng
            self.asked = self.algorithm.ask()
            if self.asked is None or not len(self.asked):
                raise SpaceExhausted("the mating gave no new feasible candidate")
        return Proposal(unchanged(decode(self.genome.code(self.asked[len(self.batch)].X))))

    def tell(self, trial: Trial) -> None:
        super().tell(trial)
        self.batch.append(trial)
        if self.algorithm is not None and self.asked is not None and len(self.batch) == len(self.asked):
            values = np.array([[-(t.mean_ap or 0.0), t.macs] for t in self.batch], dtype=float)
            Evaluator().eval(StaticProblem(self.problem, F=values), self.asked)
            self.algorithm.tell(infills=self.asked)
            self.batch, self.asked = [], None

    def _begin(self, rng: np.random.Generator) -> NSGA2:
        start = encode(self.start)
        others = [code for code in self.codes if code != start]
        drawn = rng.choice(len(others), min(self.size - 1, len(others)), replace=False)
        first = np.array([self.genome.bits(code) for code in [start, *(others[int(i)] for i in drawn)]])
        algorithm = NSGA2(
            pop_size=self.size,
            sampling=first,
            crossover=TwoPointCrossover(),
            mutation=BitflipMutation(),
            eliminate_duplicates=_Refusal(self),
        )
        algorithm.setup(self.problem, termination=NoTermination(), verbose=False)
        return algorithm


class _Refusal(DuplicateElimination):
    """Removes what was tried, is infeasible, or comes twice, from children before anything is trained."""

    def __init__(self, rival: Nsga2) -> None:
        super().__init__()
        self.rival = rival

    def _do(self, pop, other, is_duplicate):
        code_of = self.rival.genome.code
        seen = set() if other is None else {code_of(one.X) for one in other}
        for index, one in enumerate(pop):
            code = code_of(one.X)
            tried = self.rival.history.has(code)
            is_duplicate[index] = code in seen or tried or code not in self.rival.feasible
            if other is None:
                seen.add(code)
        return is_duplicate
