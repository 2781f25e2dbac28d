from __future__ import annotations

import numpy as np
import pytest
from onnx_parts import conv

from profilers.backends.fake import FakeBackend
from profilers.errors import MeasurementFailed
from profilers.network import compose


def test_latency_is_overhead_and_what_the_nodes_cost() -> None:
    backend = FakeBackend(overhead_ms=1.0, node_ms=0.25, ms_per_element=0.5)
    for copies in (1, 3):
        session = backend.load(compose([conv()] * copies))
        assert session.time_ms(2) == pytest.approx([1.0 + copies * (2 * 0.25 + 16 * 0.5)] * 2)


def test_drift_follows_virtual_time() -> None:
    backend = FakeBackend(overhead_ms=1.0, node_ms=0.0, ms_per_element=0.0, drift=lambda now: 1 + now)
    assert backend.load(conv()).time_ms(3) == pytest.approx([1.0, 2.0, 4.0])


def test_noise_is_the_generators() -> None:
    def samples(seed: int) -> list[float]:
        return FakeBackend(noise=0.1, rng=np.random.default_rng(seed)).load(conv()).time_ms(5).tolist()

    assert samples(0) == samples(0) != samples(1)


def test_noise_needs_a_generator() -> None:
    with pytest.raises(MeasurementFailed, match="rng"):
        FakeBackend(noise=0.1).load(conv()).time_ms(1)


@pytest.mark.parametrize("pattern", ["bad*", "Conv"])
def test_models_fail_by_node_name_or_type(pattern: str) -> None:
    with pytest.raises(MeasurementFailed, match="refuses"):
        FakeBackend(failing=[pattern]).load(conv(name="bad node"))
