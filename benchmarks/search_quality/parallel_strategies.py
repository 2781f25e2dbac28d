"""What the strategies of the parallel phase are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from replay import Table
from strategies import OfPhase, Rival

from spnas_hw.config import SearchConfig
from spnas_hw.search.parallel import ParallelSearcher, ParallelSettings
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, unchanged

ANCESTOR_ODDS = (0.4, 0.3, 0.2, 0.1)


def stack(serial: Architecture, counts: Sequence[int], owns: Sequence[bool]) -> Architecture:
    """`serial` with so many sub-networks a stage; a stage without any has no kind.

    Raises:
        ValueError: too many, or fewer than none.
    """
    stages = [
        replace(stage, branches=int(count), own_weights=bool(own and count))
        for stage, count, own in zip(serial.stages, counts, owns, strict=True)
    ]
    return replace(serial, stages=tuple(stages))


class ParallelAncestor(Rival):
    """The parallel search of the first public release of SP-NAS, as it behaves.

    K of every stage is drawn by itself and with fixed odds, whatever it costs and whatever was found before;
    its documentation promises odds inversely proportional to FLOPs. Sub-networks always share weights.
    """

    def draw(self, rng: np.random.Generator) -> Morphism:
        stages = len(self.start.stages)
        counts = rng.choice(len(ANCESTOR_ODDS), stages, p=ANCESTOR_ODDS)
        return unchanged(stack(self.start, counts.tolist(), [False] * stages))


def mutate(parent: Architecture, rng: np.random.Generator) -> Morphism:
    """At one stage: a sub-network more or fewer, or the other kind. The first of a stage is of either kind.

    Raises:
        ValueError: the stage has no sub-networks, or the most it may have.
    """
    counts = [stage.branches for stage in parent.stages]
    owns = [stage.own_weights for stage in parent.stages]
    at = int(rng.integers(len(counts)))
    change = ("more", "fewer", "kind")[int(rng.integers(3))]
    if change == "more":
        owns[at] = owns[at] if counts[at] else bool(rng.integers(2))
        counts[at] += 1
    elif not counts[at]:
        raise ValueError(f"stage {at} has no sub-networks")
    elif change == "fewer":
        counts[at] -= 1
    else:
        owns[at] = not owns[at]
    return unchanged(stack(parent, counts, owns))


class ParallelGenome:
    """Per stage a bit for each sub-network that there may be, K of them set, and one for whether they own
    their weights, which means nothing where K is 0."""

    def __init__(self, serial: Architecture, codes: Sequence[str]) -> None:
        self.serial = serial
        self.most = max(stage.branches for code in codes for stage in decode(code).stages)
        self.length = (self.most + 1) * len(serial.stages)

    def code(self, bits: np.ndarray) -> str:
        per_stage = bits.reshape(-1, self.most + 1)
        return encode(stack(self.serial, per_stage[:, :-1].sum(1).tolist(), per_stage[:, -1].tolist()))

    def bits(self, code: str) -> np.ndarray:
        places = np.arange(self.most)
        rows = [np.append(places < s.branches, s.own_weights) for s in decode(code).stages]
        return np.concatenate(rows)


def parallel_phase(config: SearchConfig, table: Table) -> OfPhase:
    serial, codes = decode(config.start), table.codes

    def ours(candidates: int) -> ParallelSearcher:
        settings = ParallelSettings(max_sample=len(codes), candidates=candidates)
        return ParallelSearcher(serial, False, settings, lambda a: table.price(a).macs, table.objections)

    return OfPhase(
        ours=ours,
        ancestor=lambda: ParallelAncestor(serial, codes),
        mutate=mutate,
        genome=ParallelGenome(serial, codes),
        population=8,  # the best of 3 to 15
    )
