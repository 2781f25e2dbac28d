"""The operators of the search: parent -> Morphism(child, which child block inherits which parent block).

An operator knows what it moved, so nothing has to be guessed from two strings afterwards. Blocks are
counted over the whole main branch, stages ignored. Operators that cannot act on a parent raise
ValueError; `search.proposal` counts that as one of its bounded tries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from spnas_hw.space.architecture import BRANCHES_MAX, Architecture, Block, Stage


@dataclass(frozen=True)
class Morphism:
    """A step from `parent` to `child`.

    `inherits[j]` is the index of the parent block whose weights child block j starts from; None for a
    new block. `preserves_function` says that the child, once it has inherited, computes the same
    function as its parent. `lost` names in words what could not be kept.
    """

    operator: str
    parent: Architecture
    child: Architecture
    inherits: tuple[int | None, ...]
    preserves_function: bool
    lost: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.inherits) != self.child.depth:
            raise ValueError(f"inherits names {len(self.inherits)} blocks, the child has {self.child.depth}")

    def then(self, following: Morphism) -> Morphism:
        """The two steps as one; `following` must start where this one ends."""
        if following.parent != self.child:
            raise ValueError("the second morphism does not start at the child of the first")
        return Morphism(
            f"{self.operator}+{following.operator}" if self.operator != "none" else following.operator,
            self.parent,
            following.child,
            tuple(None if i is None else self.inherits[i] for i in following.inherits),
            self.preserves_function and following.preserves_function,
            tuple(dict.fromkeys(self.lost + following.lost)),
        )


def unchanged(architecture: Architecture) -> Morphism:
    """The step that does nothing: the start of a chain of operators, or a longer training."""
    return Morphism("none", architecture, architecture, tuple(range(architecture.depth)), True)


def expand(parent: Architecture, rng: np.random.Generator, blocks: int = 1) -> Morphism:
    """Insert `blocks` blocks that keep the width, never as the first of a stage: there a new block would
    take over the stride. As identities at birth they preserve the function."""
    doubles = [list(stage.doubles) for stage in parent.stages]
    origin: list[list[int | None]] = []
    first = 0
    for stage in doubles:
        origin.append(list(range(first, first + len(stage))))
        first += len(stage)
    for _ in range(blocks):
        slots = [(s, p) for s, stage in enumerate(doubles) for p in range(1, len(stage) + 1)]
        s, p = slots[int(rng.integers(len(slots)))]
        doubles[s].insert(p, False)
        origin[s].insert(p, None)
    return Morphism(
        "expand",
        parent,
        _with_doubles(parent, doubles),
        tuple(i for stage in origin for i in stage),
        preserves_function=True,
    )


def shrink(parent: Architecture, rng: np.random.Generator) -> Morphism:
    """Take out one block that keeps the width, never the first of a stage: room for growth elsewhere.

    Raises:
        ValueError: there is no such block.
    """
    starts = np.cumsum([0, *(len(stage.doubles) for stage in parent.stages)]).tolist()
    places = [
        (s, p)
        for s, stage in enumerate(parent.stages)
        for p, double in enumerate(stage.doubles)
        if p and not double
    ]
    if not places:
        raise ValueError("no block of this architecture can be taken out")
    s, p = places[int(rng.integers(len(places)))]
    doubles = [list(stage.doubles) for stage in parent.stages]
    del doubles[s][p]
    kept = tuple(i for i in range(parent.depth) if i != starts[s] + p)
    return Morphism("shrink", parent, _with_doubles(parent, doubles), kept, False, ("a block",))


def swap(parent: Architecture, rng: np.random.Generator) -> Morphism:
    """Move one stage boundary, or one doubling, to a neighbouring place.

    The sequence of blocks keeps its order and every block its weights; strides, widths and with them
    shortcut projections change, so the function does not survive (`lost` says which).
    """
    rows = [list(stage.doubles) for stage in parent.stages]
    moves = _boundary_moves(rows) + _doubling_moves(rows)
    if not moves:
        raise ValueError("no boundary or doubling of this architecture can move")
    child = _with_doubles(parent, moves[int(rng.integers(len(moves)))])
    pairs = list(zip(parent.residuals(), child.residuals(), strict=True))
    changed = {
        "strides": any(old.stride != new.stride for old, new in pairs),
        "widths": any(old.planes != new.planes for old, new in pairs),
        "projections": any(old.projects != new.projects for old, new in pairs),
    }
    lost = [name for name, differs in changed.items() if differs]
    return Morphism("swap", parent, child, tuple(range(parent.depth)), False, tuple(lost))


def widen(parent: Architecture, rng: np.random.Generator) -> Morphism:
    """Let one more block double the width: everything behind it becomes twice as wide.

    Channels are copied and what reads them divided (Net2Net), so the function survives where the block
    projects anyway. Elsewhere the identity of its shortcut gives way to a projection, which normalises.

    Raises:
        ValueError: every block doubles already.
    """
    doubles = [list(stage.doubles) for stage in parent.stages]
    places = [(s, p) for s, stage in enumerate(doubles) for p, double in enumerate(stage) if not double]
    if not places:
        raise ValueError("every block of this architecture doubles the width already")
    s, p = places[int(rng.integers(len(places)))]
    doubles[s][p] = True
    child = _with_doubles(parent, doubles)
    pairs = list(zip(parent.residuals(), child.residuals(), strict=True))
    width = parent.block.inner_width
    lost = []
    if any(old.projects != new.projects for old, new in pairs):
        lost.append("an identity shortcut")
    if any(width(new.planes) % width(old.planes) for old, new in pairs):
        lost.append("widths that do not multiply")  # ResNeXt rounds them down
    return Morphism("widen", parent, child, tuple(range(parent.depth)), not lost, tuple(lost))


def add_stage(parent: Architecture) -> Morphism:
    """Append a stage of one block that keeps the width: one more, coarser, feature level.

    The levels there were keep their function. The new one replaces the level that the neck subsampled.
    """
    child = replace(parent, stages=(*parent.stages, Stage((False,))))
    return Morphism(
        "add_stage", parent, child, (*range(parent.depth), None), False, ("the subsampled extra level",)
    )


def change_block(parent: Architecture, block: Block) -> Morphism:
    """Build every block from another type; only what keeps its shape can be inherited."""
    if block == parent.block:
        raise ValueError(f"the architecture is already built of {block.kind} blocks")
    child = replace(parent, block=block)
    return Morphism(
        "change_block", parent, child, tuple(range(parent.depth)), False, (f"{parent.block.kind} blocks",)
    )


def add_branch(parent: Architecture, stage: int, own_weights: bool = False, count: int = 1) -> Morphism:
    """Stack `count` more sub-networks at `stage`. What connects the new ones to the rest starts at zero, so
    the function survives, unless the stage's branches already share a connection, or the next stage has more
    branches: the outer ones read the new ones from then on. Built up from a serial network, first stage to
    last, nothing is lost.

    Raises:
        ValueError: no such stage; too many branches, or branches of the other kind there.
    """
    if not 0 <= stage < len(parent.stages):
        raise ValueError(f"stage {stage} does not exist: the stages are 0 to {len(parent.stages) - 1}")
    old = parent.stages[stage]
    if count < 1 or old.branches + count > BRANCHES_MAX:
        raise ValueError(
            f"stage {stage} has {old.branches} branches of at most {BRANCHES_MAX}, not {count} more"
        )
    if old.branches and old.own_weights != own_weights:
        raise ValueError(f"stage {stage} cannot mix branches that share weights with ones that own them")
    new = replace(old, branches=old.branches + count, own_weights=own_weights)
    child = replace(parent, stages=(*parent.stages[:stage], new, *parent.stages[stage + 1 :]))
    lost = []
    if old.branches and not own_weights:
        lost.append("what the shared connection read")
    if any(following.branches > old.branches for following in parent.stages[stage + 1 : stage + 2]):
        lost.append("what branches of the next stage read")
    return Morphism("add_branch", parent, child, tuple(range(parent.depth)), not lost, tuple(lost))


Rows = list[list[bool]]
"""Per stage, per block: does it double the width?"""


def _with_doubles(parent: Architecture, rows: Rows) -> Architecture:
    stages = [
        Stage(tuple(row), stage.branches, stage.own_weights)
        for stage, row in zip(parent.stages, rows, strict=True)
    ]
    return Architecture(parent.block, parent.base_channels, parent.deep_stem, tuple(stages))


def _boundary_moves(rows: Rows) -> list[Rows]:
    """Every way in which one block crosses into the neighbouring stage."""
    moved = []
    for i, (left, right) in enumerate(pairwise(rows)):
        if len(left) > 1:
            moved.append([*rows[:i], left[:-1], [left[-1], *right], *rows[i + 2 :]])
        if len(right) > 1:
            moved.append([*rows[:i], [*left, right[0]], right[1:], *rows[i + 2 :]])
    return moved


def _doubling_moves(rows: Rows) -> list[Rows]:
    """Every way in which one doubling moves to the block before or after it."""
    places = [(s, p) for s, row in enumerate(rows) for p in range(len(row))]
    moved = []
    for (s, p), (t, q) in pairwise(places):
        if rows[s][p] != rows[t][q]:
            changed = [list(row) for row in rows]
            changed[s][p], changed[t][q] = rows[t][q], rows[s][p]
            moved.append(changed)
    return moved
