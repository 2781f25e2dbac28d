from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.search.pareto import dominates, pareto_front

points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), max_size=12)


def test_dominates() -> None:
    assert dominates((2, 1), (1, 1))
    assert not dominates((1, 1), (1, 1))
    assert not dominates((2, 0), (1, 1))


@given(points)
def test_front(items) -> None:
    front = pareto_front(items, lambda item: item)
    assert not any(dominates(a, b) for a in front for b in front)
    for item in items:
        assert item in front or any(dominates(kept, item) for kept in front)
    assert bool(front) == bool(items)
