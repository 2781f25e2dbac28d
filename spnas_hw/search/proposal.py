"""The one bounded rejection loop: every searcher finds its next candidate through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from spnas_hw.errors import SpaceExhausted
from spnas_hw.space.morphism import Morphism

PROPOSAL_TRIES = 2000


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
