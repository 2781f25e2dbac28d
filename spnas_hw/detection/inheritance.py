"""What a child network keeps of its parent: the whole detector, block by block as the Morphism says.

Where widths multiply, channels are copied so that the function is kept; where they shrink, the overlapping
part is kept. A new block keeps its fresh initialisation: the identity, with gamma = 0 in its last
normalisation. A new projection is that of the block that lost one, or else hands its channels on, since
the block that has it used to. The connection of a new level to the neck starts at zero: finer levels keep
what they computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from spnas_hw.space.architecture import Architecture
from spnas_hw.space.morphism import Morphism

PROJECTION = ".downsample.0.weight"
LATERAL = "neck.lateral_convs."
_BLOCK = re.compile(r"backbone\.(layer|branch)(\d+)(_\d+)?\.(\d+)\.(.*)")
_PYRAMID = re.compile(r"neck\.fpn_convs\.(\d+)\.(.*)")
_GAMMA = re.compile(r"backbone\.connection(\d+)(?:_(\d+))?\.1\.weight")


def inherit(
    parent_state: Mapping[str, Tensor], morphism: Morphism, fresh_state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The state a child starts from: `fresh_state` with everything that can be inherited put in.

    Args:
        parent_state: state dict of the parent's detector.
        morphism: from the parent's architecture to the child's.
        fresh_state: state dict of the newly initialised child detector; not modified.
    """
    state = {}
    for key, fresh in fresh_state.items():
        origin = _origin(key, morphism)
        inherited = None if origin is None else parent_state.get(origin)
        if inherited is None and origin is not None and _BLOCK.fullmatch(origin):
            # A sub-network that owns its weights starts from those of its stage.
            inherited = parent_state.get(re.sub(r"branch(\d+)_\d+", r"layer\1", origin))
        if inherited is not None:
            state[key] = _fitted(inherited, fresh)
        elif key.endswith(PROJECTION):
            state[key] = _identity(fresh)
        else:
            closed = key.startswith(LATERAL) or _first_new_connection(key, morphism)
            state[key] = torch.zeros_like(fresh) if closed else fresh.clone()
    return state


def _first_new_connection(key: str, morphism: Morphism) -> bool:
    """Whether this is the gamma through which a stage's new sub-networks reach what was there."""
    match = _GAMMA.fullmatch(key)
    if match is None:
        return False
    stage = int(match[1]) - 1
    old, new = morphism.parent.stages[stage : stage + 1], morphism.child.stages[stage]
    before = old[0].branches if old and old[0].own_weights == new.own_weights else 0
    return int(match[2] or 0) == before


def _origin(key: str, morphism: Morphism) -> str | None:
    """The name of the parent tensor that `key` of the child starts from, if any."""
    level = _PYRAMID.fullmatch(key)
    if level is not None:  # a new level starts like the coarsest there was
        return f"neck.fpn_convs.{min(int(level[1]), len(morphism.parent.stages) - 1)}.{level[2]}"
    match = _BLOCK.fullmatch(key)
    if match is None:
        return key  # stem, laterals and heads: by name
    stage, position = int(match[2]) - 1, int(match[4])
    parent_index = morphism.inherits[_first_block(morphism.child, stage) + position]
    if parent_index is None:
        return None
    if match[5].startswith("downsample."):
        parent_index = _projecting(morphism, parent_index)
    parent_stage, parent_position = _place(morphism.parent, parent_index)
    prefix = f"backbone.{match[1]}{parent_stage + 1}{match[3] or ''}"
    return f"{prefix}.{parent_position}.{match[5]}"


def _projecting(morphism: Morphism, block: int) -> int:
    """The parent block whose projection the heir of `block` takes: its own, else the nearest that lost it.

    When a stage boundary or a doubling moves, the projection moves along, and with it the features that
    later blocks were trained on.
    """
    projects = [residual.projects for residual in morphism.parent.residuals()]
    if projects[block]:
        return block
    heirs = zip(morphism.inherits, morphism.child.residuals(), strict=True)
    kept = {i for i, heir in heirs if heir.projects}
    lost = [i for i, had_one in enumerate(projects) if had_one and i not in kept]
    return min(lost, key=lambda i: abs(i - block), default=block)


def _first_block(architecture: Architecture, stage: int) -> int:
    return sum(len(earlier.doubles) for earlier in architecture.stages[:stage])


def _place(architecture: Architecture, block: int) -> tuple[int, int]:
    """(stage, position in the stage) of a block counted over the whole main branch."""
    for stage, blocks in enumerate(architecture.stages):
        if block < len(blocks.doubles):
            return stage, block
        block -= len(blocks.doubles)
    raise IndexError(f"the architecture has no block {block}")


def _identity(fresh: Tensor) -> Tensor:
    """A 1x1 convolution [out, in, 1, 1] that copies its channels; several copies of one are neighbours."""
    out_channels, in_channels = fresh.shape[:2]
    result = torch.zeros_like(fresh)
    result[range(out_channels), [o * in_channels // out_channels for o in range(out_channels)]] = 1
    return result


def _fitted(inherited: Tensor, fresh: Tensor) -> Tensor:
    """`inherited` in the shape of `fresh`, which fills what is left.

    Where channels multiply, each is copied and what reads it divides its weight among the copies (Net2Net,
    arXiv 1511.05641), so the function is kept. The shares differ by what `fresh` adds, which sums to zero:
    equal shares would train alike for ever. Other sizes keep the overlap, kernels aligned at their centre.
    """
    if inherited.shape == fresh.shape:
        return inherited.clone()
    result = fresh.clone()
    if inherited.dim() != fresh.dim():
        return result
    channels = list(zip(inherited.shape, fresh.shape, strict=True))[:2]
    copies = [new // old if new % old == 0 else 1 for old, new in channels]
    for axis, times in enumerate(copies):
        inherited = inherited.repeat_interleave(times, axis)
    target, source = [], []
    for axis, (old, new) in enumerate(zip(inherited.shape, fresh.shape, strict=True)):
        size = min(old, new)
        centred = axis >= 2  # kernel axes
        target.append(slice((new - size) // 2, (new - size) // 2 + size) if centred else slice(size))
        source.append(slice((old - size) // 2, (old - size) // 2 + size) if centred else slice(size))
    part = inherited[tuple(source)].to(fresh.dtype)
    if len(copies) > 1 and copies[1] > 1:
        shares = result[tuple(target)].unflatten(1, (-1, copies[1]))
        part = part / copies[1] + (shares - shares.mean(2, keepdim=True)).flatten(1, 2)
    result[tuple(target)] = part
    return result
