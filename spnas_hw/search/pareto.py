"""Dominance and the Pareto front, for any mixture of objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere worse and somewhere better than `b`; larger is better throughout."""
    pairs = list(zip(a, b, strict=True))
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)


def pareto_front(items: Sequence[T], objectives: Callable[[T], Sequence[float]]) -> list[T]:
    """The items that no other dominates, in their given order; ties all stay."""
    values = [tuple(objectives(item)) for item in items]
    return [
        item for item, own in zip(items, values, strict=True) if not any(dominates(v, own) for v in values)
    ]
