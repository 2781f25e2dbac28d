"""The strategies that are compared, each a `Searcher`. All start from the same network."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

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
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, add_stage, expand, swap, unchanged, widen


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


ANCESTOR_MAX_OPTIMAL = 5
ANCESTOR_ROUNDS = 3
ANCESTOR_EXPAND_RATIO = 0.3
ANCESTOR_ADD_STAGE_RATIO = 0.05
SWAP_TRIES = 100


class Ancestor(Rival):
    """The serial search of the first public release of SP-NAS with its defaults, as it behaves.

    That is not as it is documented: the ratios of its operators are the probabilities of not acting, and
    of the five parents the best is the least likely. Its search for an unseen child was without end; here
    it is bounded, and a draw that fails may take another parent.
    """

    def __init__(self, start: Architecture, codes: Sequence[str], max_stages: int) -> None:
        super().__init__(start, codes)
        self.max_stages = max_stages

    def draw(self, rng: np.random.Generator) -> Morphism:
        parents = self.history.heirs()[:ANCESTOR_MAX_OPTIMAL]
        weights = ancestor_weights([trial.memory_mb for trial in parents])
        kind, serial, _ = parents[int(rng.choice(len(parents), p=weights))].code.split("_")
        return unchanged(decode(f"{kind}_{self.mutate(serial, rng)}"))

    def mutate(self, serial: str, rng: np.random.Generator) -> str:
        """Three rounds on the text of the code, dashes included."""
        for _ in range(ANCESTOR_ROUNDS):
            operator = ancestor_operator(rng)
            if operator == "expand":
                for _ in range(2):
                    at = int(rng.integers(1, len(serial)))
                    serial = f"{serial[:at]}1{serial[at:]}"
            elif operator == "swap":
                serial = ancestor_swap(serial, rng)
            elif operator == "add_stage" and serial.count("-") + 1 < self.max_stages:
                serial += "-1"
        return serial


def ancestor_operator(rng: np.random.Generator) -> str | None:
    """One round's operator: each third of the draws has its own chance to do nothing."""
    kind = int(rng.integers(3))
    if kind == 0:
        return "expand" if rng.random() > ANCESTOR_EXPAND_RATIO else None
    if kind == 1:
        return "swap"
    return "add_stage" if rng.random() > ANCESTOR_ADD_STAGE_RATIO else None


def ancestor_weights(memory_mb: Sequence[float]) -> list[float]:
    """Probabilities of the parents, which are given best first.

    Logarithms that rise with the rank, so the best weighs least; then the weights are added to themselves
    in the order of falling memory, in place: later terms read what earlier ones changed. For memory we
    have that of inference, it had that of training.
    """
    if len(memory_mb) == 1:
        return [1.0]
    weights = [round(float(np.log(rank + 0.01)), 2) for rank in range(1, len(memory_mb) + 1)]
    by_memory = sorted(range(len(memory_mb)), key=lambda index: -memory_mb[index])
    for place, index in enumerate(by_memory):
        weights[index] += weights[place]
    return [weight / sum(weights) for weight in weights]


def ancestor_swap(serial: str, rng: np.random.Generator) -> str:
    """Moves every dash by a step in [-m, m - 1], m the longer neighbour stage but at most 3.

    A negative place counts from the end, as in a Python list. Codes such as 1-1 have no other
    arrangement; the original never returned from them.
    """
    stages = serial.split("-")
    for _ in range(SWAP_TRIES):
        moved = [char for char in serial if char != "-"]
        place = -1
        for left, right in pairwise(stages):
            place += len(left) + 1
            reach = min(3, max(len(left), len(right)))
            moved.insert(place + int(rng.integers(-reach, reach)), "-")
        found = "".join(moved)
        if found != serial and all(found.split("-")):
            return found
    raise ValueError("no other place for the dashes was found")


class RegularisedEvolution(Rival):
    """Real et al. 2019: mutate the best of a sample of the population; the oldest dies.

    The first population is random, but for the start network. Our operators, one at a time.
    """

    def __init__(
        self, start: Architecture, codes: Sequence[str], population: int = 10, sample: int = 5
    ) -> None:
        super().__init__(start, codes)
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
        architecture = decode(parent.code)
        operator = int(rng.integers(4))
        if operator == 3:
            return add_stage(architecture)
        return (expand, swap, widen)[operator](architecture, rng)


class Nsga2(Rival):
    """NSGA-II (Deb et al. 2002) of pymoo, maximising mAP and minimising MACs.

    A genome has three bits for each place of a block: whether there is one, whether it begins a stage,
    whether it doubles the width. Children that are infeasible or known are drawn again by pymoo's own
    mating, which bounds its tries; the first population is random, but for the start network. So few
    individuals were the best of the sizes tried (5 to 20) for 40 candidates.
    """

    def __init__(
        self, start: Architecture, codes: Sequence[str], population: int = 5, offspring: int = 5
    ) -> None:
        super().__init__(start, codes)
        self.kind = encode(start).split("_")[0]
        self.places = max(decode(code).depth for code in codes)
        self.problem = Problem(n_var=3 * self.places, n_obj=2, xl=0, xu=1, vtype=bool)
        self.size, self.offspring = population, offspring
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
        return Proposal(unchanged(decode(self.code(self.asked[len(self.batch)].X))))

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
        first = np.array([self.genome(code) for code in [start, *(others[int(i)] for i in drawn)]])
        algorithm = NSGA2(
            pop_size=self.size,
            n_offsprings=self.offspring,
            sampling=first,
            crossover=TwoPointCrossover(),
            mutation=BitflipMutation(),
            eliminate_duplicates=_Refusal(self),
        )
        algorithm.setup(self.problem, termination=NoTermination(), verbose=False)
        return algorithm

    def code(self, genome: np.ndarray) -> str:
        """The code of a genome; without any block it is of no architecture."""
        serial = ""
        for present, begins, doubles in genome.reshape(self.places, 3):
            if present:
                serial += ("-" if begins and serial else "") + ("2" if doubles else "1")
        return f"{self.kind}_{serial}_" + "-".join("0" * (serial.count("-") + 1))

    def genome(self, code: str) -> np.ndarray:
        genome = np.zeros((self.places, 3), dtype=bool)
        place = 0
        for stage in decode(code).stages:
            for position, doubles in enumerate(stage.doubles):
                genome[place] = True, position == 0, doubles
                place += 1
        return genome.ravel()


class _Refusal(DuplicateElimination):
    """Removes what was tried, is infeasible, or comes twice, from children before anything is trained."""

    def __init__(self, rival: Nsga2) -> None:
        super().__init__()
        self.rival = rival

    def _do(self, pop, other, is_duplicate):
        seen = set() if other is None else {self.rival.code(one.X) for one in other}
        for index, one in enumerate(pop):
            code = self.rival.code(one.X)
            tried = self.rival.history.has(code)
            is_duplicate[index] = code in seen or tried or code not in self.rival.feasible
            if other is None:
                seen.add(code)
        return is_duplicate
