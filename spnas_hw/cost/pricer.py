"""`cost` for many architectures: what a block costs is looked up once per shape, not once per network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from spnas_hw.cost.composition import BYTES_PER_ELEMENT, MIB, Cost, cost, head_workloads
from spnas_hw.cost.heads import Pyramid
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
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.detector import Detector

Entry = tuple[float, int, int, int]
"""Latency in milliseconds (nan where the table has none), MACs, parameters, peak of elements alive."""
NOTHING: Entry = (0.0, 0, 0, 0)


class Pricer:
    """The costs of detectors that differ in their backbone only. Equal to `cost`, many times faster."""

    def __init__(
        self, detector: Detector, size: Size, table: Mapping[str, float] | None, precision: str = "fp32"
    ) -> None:
        """`table` maps workload keys to milliseconds and must not change; None: no latency is told."""
        self.detector, self.size, self.table, self.precision = detector, size, table, precision
        self._block = cache(self._block_entry)
        self._connection = cache(self._connection_entry)
        self._lateral = cache(self._lateral_entry)
        self._ends = cache(self._ends_entry)
        self._areas = [area(halved(size, 2 + stage)) for stage in range(16)]

    def __call__(self, architecture: Architecture) -> Cost:
        """Raises MissingWorkload, naming every key that the table lacks."""
        block, planes = architecture.block, architecture.base_channels
        in_channels, expansion = planes, block.expansion
        stages = len(architecture.stages)
        latency_ms, macs, params, held, peak, heads_peak = self._ends(
            stages, architecture.base_channels, architecture.deep_stem
        )
        held_output = before = 0
        for index, stage in enumerate(architecture.stages):
            stage_ms, stage_macs, stage_params, working = 0.0, 0, 0, 0
            entry_channels, stride = in_channels, 2 if index else 1
            for double in stage.doubles:
                if double:
                    planes *= 2
                own_ms, own_macs, own_params, own_peak = self._block(
                    block, index, in_channels, planes, stride
                )
                in_channels, stride = planes * expansion, 1
                stage_ms += own_ms
                stage_macs += own_macs
                stage_params += own_params
                working = max(working, own_peak)
            branches = stage.branches
            if branches:
                to = self._connection(index, in_channels, entry_channels)
                stage_ms = (1 + branches) * stage_ms + branches * to[0]
                stage_macs = (1 + branches) * stage_macs + branches * to[1]
                copies = branches if stage.own_weights else 0
                stage_params = (1 + copies) * stage_params + max(1, copies) * to[2]
                working = max(working, to[3])
            read = index >= self.detector.first_stage  # by the neck
            lateral = self._lateral(index, in_channels) if read else NOTHING
            output = in_channels * self._areas[index]
            latency_ms += stage_ms + lateral[0]
            macs += stage_macs + lateral[1]
            params += stage_params + lateral[2]
            peak = max(peak, held + branches * output + before * held_output + working)
            held, held_output, before = held + output * read, output, branches
        if self.table is not None and latency_ms != latency_ms:
            return cost(architecture, self.detector, self.size, self.table, self.precision)  # it raises
        elements = params + max(peak, held + heads_peak[0], heads_peak[1])
        memory_mb = elements * BYTES_PER_ELEMENT[self.precision] / MIB
        told = None if self.table is None else latency_ms
        return Cost(told, memory_mb, macs, params, architecture.depth, stages)

    def _entry(self, load: Workload) -> Entry:
        latency_ms = 0.0 if self.table is None else self.table.get(load.key, float("nan"))
        return latency_ms, load.macs, load.params, load.peak_elements

    def _block_entry(self, block: Block, stage: int, in_channels: int, planes: int, stride: int) -> Entry:
        at = halved(self.size, 1 + stage if stride == 2 else 2 + stage)
        return self._entry(ResidualBlock(block, in_channels, planes, stride, at))

    def _connection_entry(self, stage: int, out_channels: int, in_channels: int) -> Entry:
        in_size = halved(self.size, 1 + stage if stage else 2)
        return self._entry(Connection(out_channels, in_channels, halved(self.size, 2 + stage), in_size))

    def _lateral_entry(self, stage: int, channels: int) -> Entry:
        return self._entry(Lateral(channels, self.detector.neck_channels, halved(self.size, 2 + stage)))

    def _ends_entry(
        self, stages: int, base_channels: int, deep_stem: bool
    ) -> tuple[float, int, int, int, int, tuple[int, int]]:
        """What all backbones of so many stages share: overhead, stem and heads. Latency, MACs, parameters,
        nothing held yet, the stem's peak, and what the laterals' outputs and the heads need at least."""
        stem = Stem(base_channels, deep_stem, self.size)
        heads = head_workloads(self.detector, stages, self.size)
        loads: tuple[Workload, ...] = (Overhead(), stem, *heads)
        entries = [self._entry(load) for load in loads]
        laterals = self.detector.neck_channels * sum(Pyramid(self.detector, stages, self.size).stage_areas)
        return (
            sum(entry[0] for entry in entries),
            sum(entry[1] for entry in entries),
            sum(entry[2] for entry in entries),
            0,
            stem.peak_elements,
            (laterals, max(load.peak_elements for load in heads)),
        )
