from __future__ import annotations

import pytest

from spnas_hw.cost.heads import Postprocess, Pyramid, RoiHead
from spnas_hw.cost.workload import ResidualBlock, Stem, halved
from spnas_hw.space.architecture import Block
from spnas_hw.space.detector import Detector


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


def test_a_cascade_is_three_box_heads_with_one_box_per_roi() -> None:
    """By hand, for 100 RoIs of 7 x 7 x 8 cells, 16 channels and 2 classes; other keys than one head's."""
    sizes = {"neck_channels": 8, "proposals": 100, "roi_channels": 16}
    one, three = (
        Pyramid(Detector(("pedestrian", "rider"), **sizes, type=kind), 3, (64, 96))
        for kind in ("faster_rcnn", "cascade_rcnn")
    )
    hidden = 7 * 7 * 8 * 16 + 16 * 16
    assert RoiHead(one).macs == 100 * (hidden + 16 * (3 + 8))
    assert RoiHead(three).macs == 3 * 100 * (hidden + 16 * (3 + 4))
    assert RoiHead(three).params == 3 * (hidden + 16 * (3 + 4) + 16 + 16 + 3 + 4)
    assert RoiHead(three).peak_elements == RoiHead(one).peak_elements + 100 * (4 + 3)
    assert len({load(pyramid).key for load in (RoiHead, Postprocess) for pyramid in (one, three)}) == 4


def test_keys_of_measured_tables_stay() -> None:
    pyramid = Pyramid(Detector(("pedestrian", "rider")), 4, (192, 384))
    assert RoiHead(pyramid).key == "roi_head-4x256-192x384-1000p7s2-1024-2c"
    assert Postprocess(pyramid).key == "postprocess-1000p-2c-1000-100-192x384"
