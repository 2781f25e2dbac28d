"""What a child network keeps of its parent: the whole detector, block by block as the Morphism says.

Where a tensor changed its shape the overlapping part is kept and the rest starts fresh. A new block
keeps its fresh initialisation: the identity, with gamma = 0 in its last normalisation. A new projection
hands its channels on, since the block that has it used to.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from spnas_hw.space.architecture import Architecture
from spnas_hw.space.morphism import Morphism

PROJECTION = ".downsample.0.weight"
_BLOCK = re.compile(r"backbone\.(layer|branch)(\d+)(_\d+)?\.(\d+)\.(.*)")
_CONNECTION = re.compile(r"backbone\.connection(\d+)_(\d+)\..*")


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
        if inherited is None and origin is not None and origin.startswith("backbone.branch"):
            # A branch that owns its weights starts from those of its stage.
            inherited = parent_state.get(re.sub(r"branch(\d+)_\d+", r"layer\1", origin))
        if inherited is not None:
            state[key] = _overlap(inherited, fresh)
        else:
            state[key] = _identity(fresh) if key.endswith(PROJECTION) else fresh.clone()
    return state


def _origin(key: str, morphism: Morphism) -> str | None:
    """The name of the parent tensor that `key` of the child starts from, if any."""
    connection = _CONNECTION.fullmatch(key)
    if connection is not None:
        # A connection that is new must start at zero.
        stage, branch = int(connection[1]) - 1, int(connection[2])
        stages = morphism.parent.stages
        return key if stage < len(stages) and branch < stages[stage].branches else None
    match = _BLOCK.fullmatch(key)
    if match is None:
        return key  # stem, neck and heads: by name
    stage, position = int(match[2]) - 1, int(match[4])
    parent_index = morphism.inherits[_first_block(morphism.child, stage) + position]
    if parent_index is None:
        return None
    parent_stage, parent_position = _place(morphism.parent, parent_index)
    prefix = f"backbone.{match[1]}{parent_stage + 1}{match[3] or ''}"
    return f"{prefix}.{parent_position}.{match[5]}"


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
    """A 1x1 convolution [out, in, 1, 1] that copies channel i to channel i; what is left stays fresh."""
    kept = min(fresh.shape[:2])
    result = fresh.clone()
    result[:kept] = 0
    result[range(kept), range(kept)] = 1
    return result


def _overlap(inherited: Tensor, fresh: Tensor) -> Tensor:
    """`fresh` with the part it shares with `inherited` copied in; kernels are aligned at their centre."""
    if inherited.shape == fresh.shape:
        return inherited.clone()
    result = fresh.clone()
    if inherited.dim() != fresh.dim():
        return result
    target, source = [], []
    for axis, (old, new) in enumerate(zip(inherited.shape, fresh.shape, strict=True)):
        size = min(old, new)
        centred = axis >= 2  # kernel axes
        target.append(slice((new - size) // 2, (new - size) // 2 + size) if centred else slice(size))
        source.append(slice((old - size) // 2, (old - size) // 2 + size) if centred else slice(size))
    with torch.no_grad():
        result[tuple(target)] = inherited[tuple(source)].to(fresh.dtype)
    return result
