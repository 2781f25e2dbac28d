"""Hypothesis strategies for architectures and search spaces."""

from __future__ import annotations

from hypothesis import strategies as st

from spnas_hw.space.architecture import Architecture, Block, Stage

BLOCKS = (Block("basic"), Block("bottleneck"), Block("resnext", 32, 4), Block("resnext", 2, 8))

BUILDABLE_DOUBLINGS = 3


@st.composite
def stages(draw: st.DrawFn, parallel: bool = True, blocks_max: int = 6) -> Stage:
    doubles = draw(st.lists(st.booleans(), min_size=1, max_size=blocks_max))
    branches = draw(st.integers(0, 3)) if parallel else 0
    return Stage(tuple(doubles), branches, bool(branches) and draw(st.booleans()))


@st.composite
def architectures(
    draw: st.DrawFn, parallel: bool = True, stages_max: int = 6, base_channels: tuple[int, ...] = (16, 48, 64)
) -> Architecture:
    base = draw(st.sampled_from(base_channels))
    return Architecture(
        draw(st.sampled_from([block for block in BLOCKS if block.inner_width(base) > 0])),
        base,
        draw(st.booleans()),
        tuple(draw(st.lists(stages(parallel), min_size=1, max_size=stages_max))),
    )


def buildable(
    parallel: bool = True, base_channels: tuple[int, ...] = (8,), stages_max: int = 3
) -> st.SearchStrategy[Architecture]:
    """Architectures small enough to build: doubling the width at every block would fill any memory."""
    found = architectures(parallel, stages_max, base_channels)
    return found.filter(lambda architecture: architecture.doublings <= BUILDABLE_DOUBLINGS)
