from __future__ import annotations

import pytest

from spnas_hw.errors import SpaceExhausted
from spnas_hw.search.proposal import propose
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

MORPHISM = unchanged(decode("b_11-21"))


def test_the_first_without_objection_is_taken() -> None:
    calls = iter(range(10))
    found = propose(lambda: (next(calls), MORPHISM)[1], lambda m: () if next(calls) >= 5 else ("no",))
    assert found is MORPHISM


def test_the_loop_is_bounded_and_counts_its_reasons() -> None:
    calls = 0

    def draw():
        nonlocal calls
        calls += 1
        if calls % 2:
            raise ValueError("cannot act")
        return MORPHISM

    with pytest.raises(SpaceExhausted, match=r"10 proposals.*cannot act \(5\).*latency_ms \(5\)"):
        propose(draw, lambda m: (f"latency_ms {calls} > 1",), tries=10)
    assert calls == 10


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError):
        propose(lambda: {}["bug"], lambda m: ())
