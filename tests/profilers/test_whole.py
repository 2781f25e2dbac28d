from __future__ import annotations

import pytest
from protocol_parts import SETTINGS, device, part

from profilers.condition import Condition
from profilers.errors import MeasurementFailed
from profilers.whole import measure_model, measure_models


def test_one_model_against_a_stored_reference() -> None:
    now = measure_model(device(), part(0.5), settings=SETTINGS)
    assert now.drift == 1 and now.latency_ms == pytest.approx(0.7) == now.raw.median_ms
    slow = measure_model(
        device(drift=lambda _: 1.5), part(0.5), reference_ms=now.reference_ms, settings=SETTINGS
    )
    assert slow.drift == pytest.approx(1.5)
    assert slow.raw.median_ms == pytest.approx(0.7 * 1.5)
    assert slow.latency_ms == pytest.approx(0.7) == slow.normalised.median_ms


def test_one_model_that_fails_is_an_error() -> None:
    with pytest.raises(MeasurementFailed, match="refuses"):
        measure_model(device(failing=["bad"]), part(0.5, name="bad"), settings=SETTINGS)


def test_several_models_take_turns() -> None:
    told: list[tuple[float, int]] = []
    found = measure_models(
        device(drift=lambda now: 1 + now / 50000),
        [part(0.5), part(1.0)],
        settings=SETTINGS,
        progress=lambda done, total: told.append((done, total)),
    )
    assert found[1].latency_ms / found[0].latency_ms == pytest.approx(1.2 / 0.7, rel=0.03)
    assert told == sorted(told) and told[-1] == (2, 2)


def test_a_model_throttled_throughout_is_an_error() -> None:
    hot = device(throttling=lambda now: Condition(throttle_reasons=("hardware thermal",)))
    with pytest.raises(MeasurementFailed, match="throttled"):
        measure_model(hot, part(0.5), settings=SETTINGS)
