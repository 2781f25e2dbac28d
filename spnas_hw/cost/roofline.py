"""A first look at a GPU that is not at hand: the roofline of its data sheet, never a measurement.

A workload takes at least as long as its arithmetic at the peak rate, and as its memory traffic at the peak
bandwidth (S. Williams et al., Roofline, CACM 2009). Devices reach neither peak, at batch 1 least of all, so
an estimate orders workloads and tells a hopeless budget from a generous one. It promises no latency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spnas_hw.cost.composition import BYTES_PER_ELEMENT
from spnas_hw.cost.workload import Workload
from spnas_hw.errors import InvalidConfig

VERSION = "roofline 1"

LAUNCH_MS = 0.005
"""Of one workload: its few kernels start, fill the device and drain, one to two microseconds each."""

SLOWER = 4.0
"""A device may take this many times the estimate: a judgement, not a statistic. It takes kernels to reach a
quarter of the peaks at batch 1. With Winograd's algorithm 3x3 convolutions in FP32 can also be faster."""


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a data sheet, for dense matrices. None: the data sheet names no such rate.

    `fp32_tflops` is that of the CUDA cores (no TF32), `fp16_tflops` that of the tensor cores with FP32
    accumulation, `int8_tops` that of the tensor cores.
    """

    name: str
    compute_capability: str  # "7.0"
    fp32_tflops: float
    fp16_tflops: float | None
    int8_tops: float | None
    bandwidth_gb_per_s: float
    memory_gb: float
    source: str

    def __post_init__(self) -> None:
        for name in ("fp32_tflops", "fp16_tflops", "int8_tops", "bandwidth_gb_per_s", "memory_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be above 0")

    def peak_tops(self, precision: str) -> float:
        """10^12 operations a second. Raises InvalidConfig: no such precision, or none in the data sheet."""
        rates = {"fp32": self.fp32_tflops, "fp16": self.fp16_tflops, "int8": self.int8_tops}
        rate = rates.get(precision)
        if rate is None:
            known = ", ".join(name for name, value in rates.items() if value is not None)
            raise InvalidConfig(
                f"the data sheet of {self.name} names no {precision} rate: estimate one of {known}"
            )
        return rate


def traffic_bytes(load: Workload, precision: str) -> int:
    """Bytes a workload moves at least: each weight, and each element alive at its peak, once."""
    return (load.params + load.peak_elements) * BYTES_PER_ELEMENT[precision]


def limits_ms(load: Workload, gpu: Gpu, precision: str) -> dict[Literal["compute", "memory"], float]:
    """How long the arithmetic takes at the peak rate, and the traffic at the peak bandwidth."""
    return {
        "compute": 2 * load.macs / (gpu.peak_tops(precision) * 1e9),
        "memory": traffic_bytes(load, precision) / (gpu.bandwidth_gb_per_s * 1e6),
    }


def estimated_ms(load: Workload, gpu: Gpu, precision: str) -> float:
    """The larger of the two limits, and the launch. Raises InvalidConfig as `Gpu.peak_tops`."""
    return max(limits_ms(load, gpu, precision).values()) + LAUNCH_MS


def bound(load: Workload, gpu: Gpu, precision: str) -> Literal["compute", "memory", "launch"]:
    """What most of the estimate is."""
    limits = limits_ms(load, gpu, precision)
    if max(limits.values()) < LAUNCH_MS:
        return "launch"
    return "compute" if limits["compute"] > limits["memory"] else "memory"
