"""What the strategies of the serial phase are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from replay import Table
from strategies import OfPhase, Rival

from spnas_hw.config import SearchConfig
from spnas_hw.search.serial import SerialSearcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, add_stage, expand, swap, unchanged, widen

ANCESTOR_MAX_OPTIMAL = 5
ANCESTOR_ROUNDS = 3
ANCESTOR_EXPAND_RATIO = 0.3
ANCESTOR_ADD_STAGE_RATIO = 0.05
SWAP_TRIES = 100


class SerialAncestor(Rival):
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


def mutate(parent: Architecture, rng: np.random.Generator) -> Morphism:
    """One of our operators, all equally likely."""
    operator = int(rng.integers(4))
    if operator == 3:
        return add_stage(parent)
    return (expand, swap, widen)[operator](parent, rng)


class SerialGenome:
    """Three bits for each place of a block: whether there is one, whether it begins a stage, whether it
    doubles the width. Without any block it is of no architecture."""

    def __init__(self, start: Architecture, codes: Sequence[str]) -> None:
        self.kind = encode(start).split("_")[0]
        self.places = max(decode(code).depth for code in codes)
        self.length = 3 * self.places

    def code(self, bits: np.ndarray) -> str:
        serial = ""
        for present, begins, doubles in bits.reshape(self.places, 3):
            if present:
                serial += ("-" if begins and serial else "") + ("2" if doubles else "1")
        return f"{self.kind}_{serial}_" + "-".join("0" * (serial.count("-") + 1))

    def bits(self, code: str) -> np.ndarray:
        bits = np.zeros((self.places, 3), dtype=bool)
        place = 0
        for stage in decode(code).stages:
            for position, doubles in enumerate(stage.doubles):
                bits[place] = True, position == 0, doubles
                place += 1
        return bits.ravel()


def serial_phase(config: SearchConfig, table: Table) -> OfPhase:
    start, codes = decode(config.start), table.codes

    def ours(candidates: int) -> SerialSearcher:
        settings = replace(config.serial, candidates=candidates)
        return SerialSearcher(start, config.space, settings, table.objections)

    return OfPhase(
        ours=ours,
        ancestor=lambda: SerialAncestor(start, codes, config.space.stages[1]),
        mutate=mutate,
        genome=SerialGenome(start, codes),
        population=5,  # the best of 5 to 20
    )
