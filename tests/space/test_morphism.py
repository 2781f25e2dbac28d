from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.space.architecture import Architecture, Block, Stage
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import (
    Morphism,
    add_branch,
    add_stage,
    change_block,
    expand,
    shrink,
    swap,
    unchanged,
    widen,
)
from tests.strategies import BLOCKS, architectures

seeds = st.integers(0, 2**32 - 1)


def flat(architecture: Architecture) -> list[bool]:
    return [double for stage in architecture.stages for double in stage.doubles]


@given(architectures(), seeds, st.integers(1, 4))
def test_expand_inserts_identities_behind_the_first_block(parent, seed, blocks) -> None:
    morphism = expand(parent, np.random.default_rng(seed), blocks)
    child = morphism.child
    assert child.depth == parent.depth + blocks
    assert child.features() == parent.features()
    assert morphism.inherits.count(None) == blocks
    assert [i for i in morphism.inherits if i is not None] == list(range(parent.depth))
    new = [r for r, i in zip(child.residuals(), morphism.inherits, strict=True) if i is None]
    assert not any(residual.projects for residual in new)
    kept = [r for r, i in zip(child.residuals(), morphism.inherits, strict=True) if i is not None]
    assert kept == list(parent.residuals())
    assert morphism.preserves_function


@given(architectures(), seeds)
def test_swap_moves_one_thing_to_a_neighbour(parent, seed) -> None:
    try:
        morphism = swap(parent, np.random.default_rng(seed))
    except ValueError:
        return
    child = morphism.child
    assert child != parent
    assert (child.depth, child.doublings) == (parent.depth, parent.doublings)
    assert len(child.stages) == len(parent.stages)
    assert morphism.inherits == tuple(range(parent.depth))
    moved_boundary = [len(s.doubles) for s in child.stages] != [len(s.doubles) for s in parent.stages]
    if moved_boundary:
        assert flat(child) == flat(parent)
    else:
        changed = [i for i, (a, b) in enumerate(zip(flat(child), flat(parent), strict=True)) if a != b]
        assert len(changed) == 2 and changed[1] == changed[0] + 1
    assert morphism.lost and not morphism.preserves_function


@pytest.mark.parametrize("code", ["b_1-1", "b_2-2", "b_1", "b_22"])
def test_swap_that_cannot_move_ends(code: str) -> None:
    """On such codes the ancestor never returned."""
    with pytest.raises(ValueError, match="can move"):
        swap(decode(code), np.random.default_rng(0))


def test_swap_reaches_every_neighbour() -> None:
    rng = np.random.default_rng(0)
    found = {encode(swap(decode("b_11-2-1"), rng).child) for _ in range(200)}
    assert found == {"b_1-12-1_0-0-0", "b_12-1-1_0-0-0", "b_11-1-2_0-0-0"}


@given(architectures())
def test_add_stage_appends_one_coarser_feature(parent) -> None:
    child = add_stage(parent).child
    assert child.features()[:-1] == parent.features()
    assert child.features()[-1].channels == parent.features()[-1].channels
    assert child.features()[-1].stride == 2 * parent.features()[-1].stride


@given(architectures(), st.data())
def test_add_branch_touches_one_stage(parent, data) -> None:
    index = data.draw(st.integers(0, len(parent.stages) - 1))
    own = data.draw(st.booleans())
    stage = parent.stages[index]
    if stage.branches == 3 or (stage.branches and stage.own_weights != own):
        with pytest.raises(ValueError):
            add_branch(parent, index, own)
        return
    child = add_branch(parent, index, own).child
    assert child.stages[index].branches == stage.branches + 1
    assert child.features() == parent.features()
    assert [s for i, s in enumerate(child.stages) if i != index] == [
        s for i, s in enumerate(parent.stages) if i != index
    ]


def test_change_block() -> None:
    morphism = change_block(decode("b_11-21"), Block("bottleneck"))
    assert encode(morphism.child) == "r_11-21_0-0"
    with pytest.raises(ValueError):
        change_block(decode("b_11-21"), Block("basic"))


@given(architectures(parallel=False), seeds)
def test_steps_compose(parent, seed) -> None:
    rng = np.random.default_rng(seed)
    first = expand(parent, rng)
    second = expand(first.child, rng)
    both = first.then(second)
    assert (both.parent, both.child) == (parent, second.child)
    assert both.inherits.count(None) == 2
    kept = [i for i in both.inherits if i is not None]
    assert kept == list(range(parent.depth))
    assert both.preserves_function and both.operator == "expand+expand"
    appended = both.then(add_stage(both.child))
    assert not appended.preserves_function
    assert unchanged(parent).then(first) == first
    with pytest.raises(ValueError):
        second.then(first)


@given(architectures(), seeds)
def test_widen_doubles_at_one_more_block(parent, seed) -> None:
    if all(flat(parent)):
        with pytest.raises(ValueError, match="doubles the width already"):
            widen(parent, np.random.default_rng(seed))
        return
    morphism = widen(parent, np.random.default_rng(seed))
    assert morphism.child.doublings == parent.doublings + 1
    assert [len(s.doubles) for s in morphism.child.stages] == [len(s.doubles) for s in parent.stages]
    assert all(new or not old for old, new in zip(flat(parent), flat(morphism.child), strict=True))
    assert morphism.child.features()[-1].channels == 2 * parent.features()[-1].channels
    projected = [r.projects for r in morphism.child.residuals()] != [r.projects for r in parent.residuals()]
    assert ("an identity shortcut" in morphism.lost) == projected


@pytest.mark.parametrize(
    ("code", "preserves"),
    [("r_11", None), ("b_1", False), ("r_1", True), ("b_2-1", True), ("x(2x5d)16_2-1", False)],
)
def test_widen_says_whether_the_function_survives(code: str, preserves: bool | None) -> None:
    """It does where the block projects anyway; a ResNeXt block of a rounded-down width may not multiply."""
    found = {widen(decode(code), np.random.default_rng(seed)).preserves_function for seed in range(20)}
    assert found == ({True, False} if preserves is None else {preserves})


@given(architectures(), seeds)
def test_shrink_undoes_an_expansion(parent, seed) -> None:
    rng = np.random.default_rng(seed)
    morphism = shrink(expand(parent, rng).child, rng)
    child = morphism.child
    assert (child.depth, child.doublings) == (parent.depth, parent.doublings)
    assert child.features() == parent.features()
    projections = [r.projects for r in child.residuals()]
    assert projections.count(True) == [r.projects for r in parent.residuals()].count(True)


def test_shrink_takes_no_block_that_others_need() -> None:
    for code in ("b_1-1", "b_12-2", "b_2"):
        with pytest.raises(ValueError, match="taken out"):
            shrink(decode(code), np.random.default_rng(0))
    found = {encode(shrink(decode("b_11-121"), np.random.default_rng(seed)).child) for seed in range(30)}
    assert found == {"b_1-121_0-0", "b_11-12_0-0"}


OPERATORS = {
    "expand": lambda parent, rng: expand(parent, rng, int(rng.integers(1, 4))),
    "shrink": shrink,
    "swap": swap,
    "add_stage": lambda parent, rng: add_stage(parent),
    "widen": widen,
    "change_block": lambda parent, rng: change_block(parent, BLOCKS[int(rng.integers(len(BLOCKS)))]),
    "add_branch": lambda parent, rng: add_branch(
        parent, int(rng.integers(len(parent.stages))), bool(rng.integers(2))
    ),
}


def a_parent(rng: np.random.Generator) -> Architecture:
    """Any architecture, the smallest and the strangest included."""
    stages = []
    for _ in range(int(rng.integers(1, 7))):
        branches = int(rng.integers(0, 4)) if rng.random() < 0.3 else 0
        doubles = tuple(bool(double) for double in rng.random(int(rng.integers(1, 9))) < rng.random())
        stages.append(Stage(doubles, branches, bool(branches) and rng.random() < 0.5))
    block = BLOCKS[int(rng.integers(len(BLOCKS)))]
    return Architecture(block, int(rng.choice([16, 48, 64])), rng.random() < 0.5, tuple(stages))


@pytest.mark.parametrize("name", OPERATORS)
def test_legal_over_ten_thousand_parents(name: str) -> None:
    """Each operator says why it cannot act, or gives a child that can be written, read and inherited."""
    rng = np.random.default_rng(0)
    acted = 0
    for _ in range(10_000):
        try:
            parent = a_parent(rng)
        except ValueError:
            continue  # groups that leave no width
        try:
            morphism = OPERATORS[name](parent, rng)
        except ValueError as error:
            assert str(error)
            continue
        acted += 1
        child = morphism.child
        assert child != parent and decode(encode(child)) == child
        kept = [i for i in morphism.inherits if i is not None]
        assert kept == sorted(kept)  # nothing changes places
        assert len(kept) == parent.depth - (name == "shrink")
        assert len(child.features()) == len(child.stages) and morphism.parent == parent
        assert bool(morphism.lost) != morphism.preserves_function
    assert acted > 4000


def test_inherits_must_cover_the_child() -> None:
    architecture = decode("b_11-21")
    with pytest.raises(ValueError):
        Morphism("none", architecture, architecture, (0,), True)
