"""What a searcher proposes, and the one bounded rejection loop through which it finds it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from spnas_hw.errors import SpaceExhausted
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.morphism import Morphism

PROPOSAL_TRIES = 2000


@dataclass(frozen=True)
class Proposal:
    """A candidate and how it is to be trained.

    `share` is the part of the schedule's iterations to train for; `rung` counts, from 0, the promotions
    that led here. `reignite`: train the backbone on ImageNet first. `why` goes to the journal.
    """

    morphism: Morphism
    rung: int = 0
    share: float = 1.0
    reignite: bool = False
    why: str | None = None

    @property
    def child(self) -> Architecture:
        return self.morphism.child

    @property
    def operator(self) -> str:
        """What leads from the parent to the child, in the words of the journal."""
        if self.reignite:
            return "reignite"
        if self.morphism.operator == "none":
            return "promote" if self.rung else "continue"
        return self.morphism.operator


def propose(
    draw: Callable[[], Morphism],
    objections: Callable[[Morphism], tuple[str, ...]],
    tries: int = PROPOSAL_TRIES,
) -> Morphism:
    """The first drawn morphism without objections. A ValueError of an operator counts as one.

    Raises:
        SpaceExhausted: none in `tries` draws; the message gives the commonest objections.
    """
    reasons: Counter[str] = Counter()
    for _ in range(tries):
        try:
            morphism = draw()
        except ValueError as error:
            reasons[str(error)] += 1
            continue
        found = objections(morphism)
        if not found:
            return morphism
        # Values differ from draw to draw; the first word is the bound that was broken.
        reasons.update({reason.split(" ")[0] for reason in found})
    common = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
    raise SpaceExhausted(f"no new candidate in {tries} proposals; what stood in the way: {common}")
