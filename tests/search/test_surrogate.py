from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from spnas_hw.search.surrogate import features, predict
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode
from tests.strategies import architectures


@given(architectures())
def test_features_are_finite_and_of_one_length(architecture: Architecture) -> None:
    found = features(architecture)
    assert np.isfinite(found).all()
    assert found.shape == features(decode("b_1")).shape


def test_different_places_of_a_doubling_differ() -> None:
    codes = (
        "b_11-21-1",
        "b_21-11-1",
        "b_11-11-2",
        "b_11-111-1",
        "b_11-11-1-1",
        "r_11-11-1",
        "b_11-21-1_0-1-0",
    )
    found = {tuple(features(decode(code))) for code in codes}
    assert len(found) == len(codes)


def test_a_smooth_function_is_learnt() -> None:
    rng = np.random.default_rng(0)
    seen, asked = rng.normal(size=(60, 3)), rng.normal(size=(40, 3))

    def truth(x: np.ndarray) -> np.ndarray:
        return 5 + x[:, 0] - 0.5 * x[:, 1] ** 2

    mean, deviation = predict(seen, truth(seen) + rng.normal(0, 0.05, 60), asked)
    assert np.abs(mean - truth(asked)).mean() < 0.3 * truth(asked).std()
    assert (deviation > 0).all()


def test_far_from_everything_it_is_unsure() -> None:
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(30, 2))
    _, deviation = predict(seen, np.sin(seen[:, 0]), np.array([[0.0, 0.0], [9.0, 9.0]]))
    assert deviation[1] > 3 * deviation[0]


def test_pure_noise_is_told_from_signal() -> None:
    rng = np.random.default_rng(2)
    seen = rng.normal(size=(80, 4))
    mean, _ = predict(seen, rng.normal(3.0, 1.0, 80), seen)
    assert np.std(mean) < 0.6


@pytest.mark.parametrize("count", [1, 2])
def test_few_or_equal_values_do_not_break_it(count: int) -> None:
    mean, deviation = predict(np.zeros((count, 2)), np.full(count, 0.2), np.ones((3, 2)))
    assert mean == pytest.approx([0.2] * 3) and np.isfinite(deviation).all()
