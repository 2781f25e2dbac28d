"""Every workload of a search space as an ONNX part, and the manifest that says how to cost it.

The parts are cut out of real detectors, a few architectures that together contain every block in every
place. They are exported side by side in one graph, which is then cut apart: hundreds of small exports
would take minutes. How a marginal cost follows from the probes is told in `profilers.manifest`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from onnx.utils import Extractor
from torch import Tensor, nn

from profilers.half import half_precision
from profilers.manifest import Probe, Whole, write_manifest
from profilers.network import OUT
from spnas_hw import __version__
from spnas_hw.cost import heads
from spnas_hw.cost.closed_set import representatives
from spnas_hw.cost.composition import workloads
from spnas_hw.cost.heads import Fpn, Pyramid
from spnas_hw.cost.workload import (
    Connection,
    Lateral,
    Overhead,
    ResidualBlock,
    Size,
    Stem,
    Workload,
    halved,
)
from spnas_hw.export.detector import OUTPUTS, onnx_from_module
from spnas_hw.export.neck import TopDown
from spnas_hw.export.one_stage import OneStageHead, OneStagePostprocess
from spnas_hw.export.two_stage import DenseHead, Postprocess, roi_head
from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace

Build = Callable[[Architecture], nn.Module]
"""An architecture -> its whole detector, with mmdet's attribute names, in eval mode."""
PRECISIONS: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "fp32": lambda model: model,
    "fp16": half_precision,
}
"""What makes a model of a precision from one of float32."""
CHAIN_LENGTHS = (1, 2, 4)
CONNECTIONS = 2  # in a probe: most are so cheap that one would drown in the blocks around it
RESULT = "@result"
"""Ending of the key of a block that makes the result of a sub-network, beside the main branch's `x`."""
CANDIDATES = ("candidates", "candidate_scores", "candidate_labels")
"""What a one-stage head hands to its postprocessing."""
PARTS_PER_EXPORT = 40


@dataclass(frozen=True)
class Part:
    """A module with the names and shapes of its tensors, float32 but for the `integers` (int64); an output
    named as an input is made anew."""

    module: nn.Module
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    integers: frozenset[str] = frozenset()


def write_workloads(
    folder: Path,
    space: SearchSpace,
    detector: Detector,
    size: Size,
    build: Build,
    *,
    space_hash: str,
    precision: str,
    wholes: Sequence[Architecture],
) -> Path:
    """Writes the parts and `manifest.json` of all architectures of `space`, with sub-networks and without;
    returns its path.

    Batch 1. Weights are random: latency does not depend on them.

    Args:
        size: (height, width) of the image.
        precision: fp32, or fp16 (`profilers.half`).
        wholes: serial architectures of the space that are measured whole, to correct the sums by.

    Raises:
        ExportError: the export failed.
    """
    parts: dict[str, Part] = {}
    loads: dict[str, Workload] = {}
    for architecture in representatives(space):
        own = {load.key: load for load in workloads(architecture, detector, size)}
        if not own.keys() <= parts.keys():
            model = with_live_norms(build(architecture))
            for load, part in _parts(model, architecture, detector, size):
                parts.setdefault(load.key, part)
        loads.update(own)
    chains = _head_chains(loads.values())
    probes: dict[str, tuple[Probe, ...]] = {}
    for load in loads.values():
        if load.key in chains:
            probes[load.key] = chains[load.key]
            continue
        probes[load.key], context = _probes(load, space.blocks[0])
        for block in context:
            if block.key not in parts:
                parts[block.key] = _repeating_part(block, build)
    models = _export(parts)
    for key in (key for some in probes.values() for probe in some for key in probe.parts):
        if key not in models:
            models[key] = _making_result(models[key.removesuffix(RESULT)])
    return write_manifest(
        folder,
        tool_version=__version__,
        space_hash=space_hash,
        batch=1,
        precision=precision,
        input_height=size[0],
        input_width=size[1],
        parts={key: PRECISIONS[precision](model) for key, model in models.items()},
        workloads=probes,
        wholes=[_whole(architecture, detector, size) for architecture in wholes],
    )


def _whole(architecture: Architecture, detector: Detector, size: Size) -> Whole:
    """A whole detector as a chain of parts: each lateral behind the stage that it reads."""
    loads = workloads(architecture, detector, size)
    laterals = {load.size: load.key for load in loads if isinstance(load, Lateral)}
    blocks = [load for load in loads if isinstance(load, ResidualBlock)]
    after = [load.key for load in heads.heads(Pyramid(detector, len(architecture.stages), size))]
    parts = [load.key for load in loads if isinstance(load, Stem)]
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        parts.append(block.key)
        if (following is None or following.stride == 2) and block.out_size in laterals:
            parts.append(laterals[block.out_size])
    return Whole(parts=(*parts, *after), workloads=tuple(load.key for load in loads))


def _parts(
    model: nn.Module, architecture: Architecture, detector: Detector, size: Size
) -> Iterable[tuple[Workload, Part]]:
    """The workloads of one detector, each with the module that does it."""
    backbone, neck = model.backbone, model.neck
    stages = len(architecture.stages)
    modules: list[nn.Module] = []  # in the order of the workloads
    for index, stage in enumerate(architecture.stages):
        modules += [*getattr(backbone, f"layer{index + 1}")] * (1 + stage.branches)
        modules += [getattr(backbone, f"connection{index + 1}", None)] * stage.branches
    laterals = list(neck.lateral_convs)
    pyramid = Pyramid(detector, stages, size)
    levels = {f"p{i}": (1, detector.neck_channels, *halved(size, 2 + i)) for i in pyramid.levels()}
    stage_levels = {name: shape for name, shape in levels.items() if int(name[1:]) < stages}
    proposals = (detector.proposals, 4)
    widths = {"cls_logits": len(detector.classes) + 1, "bbox_deltas": detector.box_deltas}
    if len(detector.box_stages) > 1:
        widths["rois"] = 4
    refined = {name: (detector.proposals, width) for name, width in widths.items()}
    for load in workloads(architecture, detector, size):
        match load:
            case Overhead():
                yield load, Part(nn.ReLU(), {"nothing": (1, 1)}, ("nothing",))
            case Stem():
                yield load, Part(_Stem(backbone), {"image": (1, 3, *size)}, ("x",))
            case ResidualBlock():
                yield load, Part(modules.pop(0), {"x": (1, load.in_channels, *load.size)}, ("x",))
            case Connection():
                result, x = (1, load.in_channels, *load.in_size), (1, load.out_channels, *load.size)
                yield load, Part(modules.pop(0), {"result": result, "x": x}, ("x",))
            case Lateral():
                level = stages - len(laterals)
                inputs = {"x": (1, load.in_channels, *load.size)}
                yield load, Part(laterals.pop(0), inputs, (f"lateral{level}",))
            case Fpn():
                inputs = {f"lateral{name[1:]}": shape for name, shape in stage_levels.items()}
                yield load, Part(TopDown(neck), inputs, tuple(levels))
            case heads.DenseHead():
                dense = DenseHead(model.rpn_head, detector, size, stages + 1)
                yield load, Part(dense, levels, ("proposals", "proposals_converged"))
            case heads.RoiHead():
                inputs = {**stage_levels, "proposals": proposals}
                yield load, Part(roi_head(model, detector, size), inputs, tuple(refined))
            case heads.Postprocess():
                inputs = {"proposals": proposals, **refined}
                yield load, Part(Postprocess(detector, size), inputs, OUTPUTS)
            case heads.OneStageHead():
                head = OneStageHead(model.bbox_head, detector, size, detector.first_stage)
                yield load, Part(head, levels, CANDIDATES)
            case heads.OneStagePostprocess():
                count = heads.OneStageHead(pyramid).candidates
                inputs = dict(zip(CANDIDATES, ((count, 4), (count,), (count,)), strict=True))
                yield load, Part(OneStagePostprocess(detector), inputs, OUTPUTS, frozenset(CANDIDATES[2:]))


class _Stem(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> Tensor:
        stem: Tensor = self.backbone.run_stem(image)
        return stem


def _probes(load: Workload, block: Block) -> tuple[tuple[Probe, ...], tuple[ResidualBlock, ...]]:
    """How a workload of backbone or neck is costed, and the repeating blocks around it.

    A chain A,T,B carries the cost of entering at A's shape and leaving at B's (layout changes, for
    instance); half a chain A,A and half a chain B,B carry the same, so it drops out.
    """
    if isinstance(load, Overhead):
        return (Probe(count=1, parts=(load.key,)),), ()
    if isinstance(load, ResidualBlock) and load.repeats:
        chains = tuple(Probe(count=n, parts=(load.key,) * n) for n in CHAIN_LENGTHS)
        return chains, (load,)
    if isinstance(load, Stem):
        after = _repeating(block, load.channels, halved(load.size, 2))
        with_it = Probe(count=1, parts=(load.key, after.key))
        return (with_it, Probe(count=0, parts=(after.key,))), (after,)
    if isinstance(load, Lateral):  # a side branch: the next block reads the same tensor
        beside = _repeating(block, load.in_channels, load.size)
        with_it = Probe(count=1, parts=(beside.key, load.key, beside.key))
        return (with_it, Probe(count=0, parts=(beside.key,) * 2)), (beside,)
    if isinstance(load, Connection):  # a side branch, too: it is added to what the main branch made
        main = _repeating(block, load.out_channels, load.size)
        stage = _repeating(block, load.in_channels, load.in_size)
        result = stage.key + RESULT
        with_them = Probe(count=CONNECTIONS, parts=(main.key, *(result, load.key) * CONNECTIONS, result))
        without = Probe(count=0, parts=(main.key, *(result,) * (1 + CONNECTIONS)))
        return (with_them, without), (main, stage)
    if not isinstance(load, ResidualBlock):
        raise TypeError(f"{load.key} is no workload of a backbone or its neck")
    before = _repeating(load.block, load.in_channels, load.size)
    after = _repeating(load.block, load.out_channels, load.out_size)
    with_it = Probe(count=1, parts=(before.key, load.key, after.key))
    halves = tuple(Probe(count=0, parts=(context.key,) * 2) for context in (before, after))
    return (with_it, *halves), (before, after)


def _head_chains(loads: Iterable[Workload]) -> dict[str, tuple[Probe, ...]]:
    """Neck, heads and postprocessing, each costed behind the ones before it."""
    probes: dict[str, tuple[Probe, ...]] = {}
    for fpn in [load for load in loads if isinstance(load, Fpn)]:
        chain: tuple[str, ...] = ()
        for load in heads.heads(fpn.pyramid):
            before = chain or (Overhead().key,)
            chain = (*chain, load.key)
            probes[chain[-1]] = (Probe(count=1, parts=chain), Probe(count=0, parts=before))
    return probes


def _repeating(block: Block, channels: int, size: Size) -> ResidualBlock:
    """The block that keeps width and resolution: what contexts are made of."""
    if not block.inner_width(channels // block.expansion):  # too narrow for so many groups
        block = Block("basic")
    return ResidualBlock(block, channels, channels // block.expansion, 1, size)


def _repeating_part(load: ResidualBlock, build: Build) -> Part:
    """A repeating block that no architecture of the space has, from one that has it."""
    stages = (Stage((False, False)),)
    model = with_live_norms(build(Architecture(load.block, load.planes, False, stages)))
    return Part(model.backbone.layer1[1], {"x": (1, load.in_channels, *load.size)}, ("x",))


def with_live_norms(model: nn.Module) -> nn.Module:
    """Blocks start as identities; zeros would let a runtime skip work and a GPU save power."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            scale = torch.empty_like(module.weight).uniform_(0.2, 0.6, generator=generator)
            module.weight.data.copy_(scale)
    return model.eval()


class _SideBySide(nn.Module):
    def __init__(self, parts: list[Part]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part.module for part in parts)
        self.counts = [len(part.inputs) for part in parts]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        outputs: list[Tensor] = []
        start = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            made = part(*tensors[start : start + count])
            outputs += made if isinstance(made, tuple) else [made]
            start += count
        return tuple(outputs)


def _export(parts: Mapping[str, Part]) -> dict[str, onnx.ModelProto]:
    """Each part as a model of its own."""
    models: dict[str, onnx.ModelProto] = {}
    keys = list(parts)
    for start in range(0, len(keys), PARTS_PER_EXPORT):
        chosen = keys[start : start + PARTS_PER_EXPORT]
        group = [parts[key] for key in chosen]
        inputs = {
            f"in{i}.{name}": torch.zeros(shape, dtype=torch.int64 if name in part.integers else torch.float32)
            for i, part in enumerate(group)
            for name, shape in part.inputs.items()
        }
        outputs = [f"out{i}.{name}" for i, part in enumerate(group) for name in part.outputs]
        extractor = Extractor(onnx_from_module(_SideBySide(group), inputs, outputs))
        for i, (key, part) in enumerate(zip(chosen, group, strict=True)):
            own = extractor.extract_model(
                [f"in{i}.{name}" for name in part.inputs], [f"out{i}.{name}" for name in part.outputs]
            )
            names = {f"in{i}.{name}": name for name in part.inputs}
            names |= {f"out{i}.{name}": name + OUT * (name in part.inputs) for name in part.outputs}
            models[key] = _renamed(own, names)
    return models


def _making_result(block: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(block)
    return _renamed(copy, {"x": "result", "x" + OUT: "result" + OUT})


def _renamed(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return model
