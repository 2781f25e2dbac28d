from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.calibration import calibration

COSTS = {"a": 1.0, "b": 3.0, "c": 0.2}
Wholes = list[tuple[list[str], float]]


def wholes(true: dict[str, float], count: int, rng: np.random.Generator, noise: float = 0.0) -> Wholes:
    found = []
    for _ in range(count):
        terms = ["c"] + [key for key in "ab" for _ in range(rng.integers(1, 6))]
        found.append((terms, sum(true[key] for key in terms) * (1 + noise * rng.standard_normal())))
    return found


def corrected(found: Wholes) -> dict[str, float]:
    return {key: COSTS[key] + ms for key, ms in calibration(COSTS, found).corrections.items()}


def test_sums_that_are_right_are_not_corrected() -> None:
    found = calibration(COSTS, wholes(COSTS, 12, np.random.default_rng(0)))
    assert found.corrections == pytest.approx({"a": 0, "b": 0, "c": 0}, abs=1e-12)
    assert (found.networks, found.error_of_sums) == (12, pytest.approx(0, abs=1e-12))


def test_a_cost_that_is_wrong_is_found() -> None:
    true = {"a": 1.0, "b": 3.3, "c": 0.2}
    found = corrected(wholes(true, 20, np.random.default_rng(1), noise=0.002))
    assert found["b"] == pytest.approx(3.3, rel=0.02) and found["a"] == pytest.approx(1.0, rel=0.04)


@given(seed=st.integers(0, 2**32 - 1), a=st.floats(0.9, 1.1), b=st.floats(0.9, 1.1))
def test_corrections_help_on_networks_left_out(seed: int, a: float, b: float) -> None:
    rng = np.random.default_rng(seed)
    true = {"a": a * COSTS["a"], "b": b * COSTS["b"], "c": COSTS["c"]}
    found = calibration(COSTS, wholes(true, 16, rng))
    costs = {key: COSTS[key] + found.corrections[key] for key in COSTS}
    for terms, latency in wholes(true, 8, rng):
        plain = abs(sum(COSTS[key] for key in terms) / latency - 1)
        assert abs(sum(costs[key] for key in terms) / latency - 1) <= 0.5 * plain + 0.005


def test_the_error_left_out_is_what_leaving_out_gives() -> None:
    true = {"a": 1.1, "b": 2.8, "c": 0.2}
    all_of_them = wholes(true, 9, np.random.default_rng(2), noise=0.02)
    errors = []
    for out in range(9):
        rest = all_of_them[:out] + all_of_them[out + 1 :]
        costs = corrected(rest)
        terms, latency = all_of_them[out]
        errors.append(abs(sum(costs[key] for key in terms) / latency - 1))
    assert calibration(COSTS, all_of_them).error_left_out == pytest.approx(np.mean(errors), rel=1e-9)


def test_a_network_with_a_failed_workload_does_not_count() -> None:
    good = wholes(COSTS, 3, np.random.default_rng(3))
    assert calibration(COSTS, [*good, (["a", "lost"], 9.0)]).networks == 3


def test_too_few_networks_correct_nothing() -> None:
    found = calibration(COSTS, wholes(COSTS, 2, np.random.default_rng(4)))
    assert (found.corrections, found.networks, found.error_of_sums) == ({}, 0, None)
