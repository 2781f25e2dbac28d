"""From an architecture to its workloads, and from workloads to latency, MACs, parameters and memory.

Latency, MACs and parameters sum; activation memory is the maximum alive at once. The latencies come
as a plain mapping from workload key to milliseconds, whoever measured them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spnas_hw.cost.heads import Pyramid, heads
from spnas_hw.cost.workload import (
    Connection,
    Lateral,
    Overhead,
    ResidualBlock,
    Size,
    Stem,
    Workload,
    area,
    halved,
)
from spnas_hw.errors import MissingWorkload
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.detector import Detector

BYTES_PER_ELEMENT = {"fp32": 4, "fp16": 2, "int8": 1}
MIB = 2**20
_ANY_SIZE: Size = (64, 64)  # parameters do not depend on it


def stage_workloads(architecture: Architecture, index: int, size: Size) -> tuple[Workload, ...]:
    """The blocks of one stage, as often as its branches run them, and the branches' connections."""
    block = architecture.block
    at = halved(size, 1 + index) if index else halved(size, 2)
    in_size = at
    blocks: list[Workload] = []
    residuals = architecture.stage_residuals(index)
    for residual in residuals:
        blocks.append(ResidualBlock(block, residual.in_channels, residual.planes, residual.stride, at))
        at = halved(at) if residual.stride == 2 else at
    connection = Connection(residuals[-1].out_channels, residuals[0].in_channels, at, in_size)
    branches = architecture.stages[index].branches
    return (*blocks * (1 + branches), *(connection,) * branches)


def backbone_workloads(architecture: Architecture, size: Size) -> tuple[Workload, ...]:
    """The stem and every block of a backbone for an image of `size` (height, width)."""
    stem = Stem(architecture.base_channels, architecture.deep_stem, size)
    stages = range(len(architecture.stages))
    return (stem, *(w for index in stages for w in stage_workloads(architecture, index, size)))


def head_workloads(detector: Detector, stages: int, size: Size) -> tuple[Workload, ...]:
    """What follows the lateral convolutions; the same for all backbones of `stages` stages."""
    return heads(Pyramid(detector, stages, size))


def workloads(architecture: Architecture, detector: Detector, size: Size) -> tuple[Workload, ...]:
    """Everything a whole detector runs for one image: pixels in, boxes out."""
    after = head_workloads(detector, len(architecture.stages), size)
    laterals = lateral_workloads(architecture, detector, size)
    return (Overhead(), *backbone_workloads(architecture, size), *laterals, *after)


def lateral_workloads(architecture: Architecture, detector: Detector, size: Size) -> tuple[Lateral, ...]:
    """A lateral convolution for each stage that the pyramid reads."""
    return tuple(
        Lateral(feature.channels, detector.neck_channels, halved(size, 2 + index))
        for index, feature in enumerate(architecture.features())
        if index >= detector.first_stage
    )


def latency_ms(loads: Iterable[Workload], table: Mapping[str, float]) -> float:
    """The sum of the measured marginal latencies.

    Raises:
        MissingWorkload: some keys have no measured row.
    """
    total = 0.0
    missing: dict[str, None] = {}
    for load in loads:
        cost = table.get(load.key)
        if cost is None:
            missing[load.key] = None
        else:
            total += cost
    if missing:
        raise MissingWorkload(missing)
    return total


def macs(loads: Iterable[Workload]) -> int:
    """Multiply-accumulates of one image."""
    return sum(load.macs for load in loads)


def stage_params(architecture: Architecture, index: int) -> int:
    """Weights of one stage, its branches and connections; what branches share is counted once."""
    stage = architecture.stages[index]
    loads = stage_workloads(architecture, index, _ANY_SIZE)
    copies = 1 + stage.branches if stage.own_weights else 1
    connections = stage.branches if stage.own_weights else min(1, stage.branches)
    blocks = sum(load.params for load in loads[: len(stage.doubles)])
    return copies * blocks + (connections * loads[-1].params if connections else 0)


def backbone_params(architecture: Architecture) -> int:
    """Weights of stem and stages."""
    stem = Stem(architecture.base_channels, architecture.deep_stem, _ANY_SIZE)
    return stem.params + sum(stage_params(architecture, index) for index in range(len(architecture.stages)))


def params(architecture: Architecture, detector: Detector) -> int:
    """Weights of the whole detector."""
    laterals = lateral_workloads(architecture, detector, _ANY_SIZE)
    after = head_workloads(detector, len(architecture.stages), _ANY_SIZE)
    return backbone_params(architecture) + sum(load.params for load in (*laterals, *after))


def peak_activation_elements(architecture: Architecture, detector: Detector, size: Size) -> int:
    """The most tensor elements alive at once: stage outputs wait until the neck has read them,
    and kept branch outputs until the next stage has."""
    held = held_output = 0
    peak = Stem(architecture.base_channels, architecture.deep_stem, size).peak_elements
    for index, feature in enumerate(architecture.features()):
        output = feature.channels * area(halved(size, 2 + index))
        branches = architecture.stages[index].branches
        previous = architecture.stages[index - 1].branches if index else 0
        kept = branches * output + previous * held_output
        working = max(load.peak_elements for load in stage_workloads(architecture, index, size))
        peak = max(peak, held + kept + working)
        held += output * (index >= detector.first_stage)
        held_output = output
    pyramid = Pyramid(detector, len(architecture.stages), size)
    laterals = detector.neck_channels * sum(pyramid.stage_areas)
    return max(peak, held + laterals, *(load.peak_elements for load in heads(pyramid)))


@dataclass(frozen=True)
class Cost:
    """What a detector costs. `latency_ms` is None where no table was given."""

    latency_ms: float | None
    memory_mb: float
    macs: int
    params: int
    depth: int
    stages: int


def cost(
    architecture: Architecture,
    detector: Detector,
    size: Size,
    table: Mapping[str, float] | None,
    precision: str = "fp32",
) -> Cost:
    """All costs of a detector. `memory_mb` is MiB of weights plus the peak of activations, batch 1."""
    loads = workloads(architecture, detector, size)
    weights = params(architecture, detector)
    elements = weights + peak_activation_elements(architecture, detector, size)
    return Cost(
        None if table is None else latency_ms(loads, table),
        elements * BYTES_PER_ELEMENT[precision] / MIB,
        macs(loads),
        weights,
        architecture.depth,
        len(architecture.stages),
    )
