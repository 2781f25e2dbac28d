from __future__ import annotations

import pytest

from profilers.backends.fake import FakeBackend
from profilers.interleaving import Settings
from profilers.reference import reference_network
from profilers.whole import measure_model
from spnas_hw.pipeline.benchmark import SITTINGS, measure_at_table_speed

DETECTOR = reference_network()
SETTINGS = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, rebuilt_rows=0)


def device(**options: object) -> FakeBackend:
    return FakeBackend(overhead_ms=0.2, **options)  # type: ignore[arg-type]


@pytest.fixture
def reference_ms() -> float:
    return measure_model(device(), DETECTOR, settings=SETTINGS).reference_ms


def test_a_detector_is_measured_again_while_something_else_has_the_device(reference_ms: float) -> None:
    once = device()
    measure_at_table_speed(once, DETECTOR, reference_ms, SETTINGS)
    sitting_ms = once.now_ms

    def busy(now_ms: float) -> float:
        return 1.2 if now_ms < sitting_ms else 1.01

    found = measure_at_table_speed(device(drift=busy), DETECTOR, reference_ms, SETTINGS)
    assert found.drift == pytest.approx(1.01, abs=0.005)
    assert found.raw.median_ms == pytest.approx(1.01 * reference_ms, rel=0.01)


def test_of_a_device_that_stays_slow_the_best_sitting_counts_and_says_so(reference_ms: float) -> None:
    slower = device(drift=lambda now_ms: 1.1 + now_ms / 1e6)
    found = measure_at_table_speed(slower, DETECTOR, reference_ms, SETTINGS)
    once = device(drift=lambda now_ms: 1.1 + now_ms / 1e6)
    first = measure_model(once, DETECTOR, reference_ms=reference_ms, settings=SETTINGS)
    assert found == first and found.drift > 1.1
    assert slower.now_ms > (SITTINGS - 0.5) * once.now_ms


@pytest.mark.parametrize("drift", [0.8, 1.04])
def test_a_device_as_fast_as_then_is_measured_once(drift: float, reference_ms: float) -> None:
    now, once = (device(drift=lambda _: drift) for _ in range(2))
    measure_at_table_speed(now, DETECTOR, reference_ms, SETTINGS)
    measure_model(once, DETECTOR, reference_ms=reference_ms, settings=SETTINGS)
    assert now.now_ms == once.now_ms


def test_without_a_table_there_is_no_speed_to_wait_for() -> None:
    slow, once = (device(drift=lambda _: 3.0) for _ in range(2))
    found = measure_at_table_speed(slow, DETECTOR, None, SETTINGS)
    measure_model(once, DETECTOR, settings=SETTINGS)
    assert found.drift == pytest.approx(1) and slow.now_ms == once.now_ms
