from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.cost.roofline import (
    LAUNCH_MS,
    Gpu,
    bound,
    estimated_ms,
    limits_ms,
    traffic_bytes,
)
from spnas_hw.cost.workload import Lateral, Overhead, ResidualBlock
from spnas_hw.errors import InvalidConfig
from spnas_hw.space.architecture import Block

GPU = Gpu("G", "7.0", 10.0, 80.0, 160.0, 500.0, 16.0, "a data sheet")


@dataclass(frozen=True)
class Load:
    macs: int
    params: int
    peak_elements: int
    key: str = "load"


counts = st.integers(0, 10**12)
loads = st.builds(Load, counts, counts, counts)
gpus = st.builds(
    Gpu,
    st.just("G"),
    st.just("7.0"),
    *(st.floats(0.1, 1e4) for _ in range(5)),
    st.just("a data sheet"),
)
precisions = st.sampled_from(["fp32", "fp16", "int8"])


@given(loads, gpus, precisions, counts)
def test_more_work_never_takes_less(load: Load, gpu: Gpu, precision: str, more: int) -> None:
    before = estimated_ms(load, gpu, precision)
    for name in ("macs", "params", "peak_elements"):
        larger = dataclasses.replace(load, **{name: getattr(load, name) + more})
        assert estimated_ms(larger, gpu, precision) >= before


@given(loads, gpus, precisions, st.floats(1.01, 100))
def test_a_better_gpu_is_never_slower(load: Load, gpu: Gpu, precision: str, factor: float) -> None:
    rates = ("fp32_tflops", "fp16_tflops", "int8_tops", "bandwidth_gb_per_s")
    better = dataclasses.replace(gpu, **{name: getattr(gpu, name) * factor for name in rates})
    assert estimated_ms(load, better, precision) <= estimated_ms(load, gpu, precision)


def test_by_hand() -> None:
    load = Load(macs=10**9, params=10**6, peak_elements=4 * 10**6)
    assert traffic_bytes(load, "fp32") == 20 * 10**6
    assert limits_ms(load, GPU, "fp32") == {"compute": pytest.approx(0.2), "memory": pytest.approx(0.04)}
    assert limits_ms(load, GPU, "fp16") == {"compute": pytest.approx(0.025), "memory": pytest.approx(0.02)}
    assert limits_ms(load, GPU, "int8") == {"compute": pytest.approx(0.0125), "memory": pytest.approx(0.01)}
    assert estimated_ms(load, GPU, "fp32") == pytest.approx(0.2 + LAUNCH_MS)


def test_what_binds() -> None:
    assert bound(ResidualBlock(Block("basic"), 256, 256, 1, (64, 128)), GPU, "fp32") == "compute"
    assert bound(Lateral(64, 16, (256, 512)), GPU, "fp32") == "memory"
    assert bound(Lateral(64, 16, (3, 6)), GPU, "fp32") == "launch"


def test_an_empty_network_costs_its_launch() -> None:
    assert estimated_ms(Overhead(), GPU, "fp16") == LAUNCH_MS


@pytest.mark.parametrize("precision", ["int8", "fp8", "FP32"])
def test_a_rate_that_the_data_sheet_lacks_is_refused(precision: str) -> None:
    old = dataclasses.replace(GPU, int8_tops=None)
    with pytest.raises(InvalidConfig, match=f"names no {precision} rate: estimate one of fp32, fp16$"):
        estimated_ms(Overhead(), old, precision)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_rates_are_positive(value: float) -> None:
    with pytest.raises(ValueError, match="bandwidth_gb_per_s"):
        dataclasses.replace(GPU, bandwidth_gb_per_s=value)


@given(loads, gpus, precisions)
def test_it_is_at_least_each_of_its_parts(load: Load, gpu: Gpu, precision: str) -> None:
    estimate, limits = estimated_ms(load, gpu, precision), limits_ms(load, gpu, precision)
    assert estimate == max(limits.values()) + LAUNCH_MS
    named = bound(load, gpu, precision)
    assert named == "launch" or limits[named] == max(limits.values()) >= LAUNCH_MS
