from __future__ import annotations

import pytest

from spnas_hw.cost.workload import ResidualBlock, Stem, halved
from spnas_hw.space.architecture import Block


def test_halved_rounds_up() -> None:
    assert halved((224, 225)) == (112, 113)
    assert halved((1, 1), 5) == (1, 1)


def test_key_spells_out_what_decides_the_cost() -> None:
    block = ResidualBlock(Block("resnext", 32, 4), 256, 128, 2, (56, 56))
    others = [
        ResidualBlock(Block("bottleneck"), 256, 128, 2, (56, 56)),
        ResidualBlock(Block("resnext", 32, 8), 256, 128, 2, (56, 56)),
        ResidualBlock(Block("resnext", 32, 4), 512, 128, 2, (56, 56)),
        ResidualBlock(Block("resnext", 32, 4), 256, 64, 2, (56, 56)),
        ResidualBlock(Block("resnext", 32, 4), 256, 128, 1, (56, 56)),
        ResidualBlock(Block("resnext", 32, 4), 256, 128, 2, (56, 28)),
        Stem(64, False, (56, 56)),
        Stem(64, True, (56, 56)),
    ]
    assert len({block.key, *(other.key for other in others)}) == 9


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_only_blocks_that_keep_everything_repeat(kind) -> None:
    block = Block(kind)
    channels = 64 * block.expansion
    assert ResidualBlock(block, channels, 64, 1, (8, 8)).repeats
    assert not ResidualBlock(block, channels, 64, 2, (8, 8)).repeats
    assert not ResidualBlock(block, channels, 128, 1, (8, 8)).repeats


def test_peak_of_a_basic_block_by_hand() -> None:
    """While the second convolution runs its input, its output and the shortcut are alive."""
    assert ResidualBlock(Block("basic"), 4, 4, 1, (10, 10)).peak_elements == 3 * 4 * 100
    # Projected: the input, the first result and the second while 8 channels at a quarter of the cells.
    assert ResidualBlock(Block("basic"), 4, 8, 2, (10, 10)).peak_elements == 400 + 2 * 200
