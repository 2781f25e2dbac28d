"""The one grammar of architecture codes: `TYPE[BASE][d]_SERIAL_PARALLEL`.

    TYPE      b basic block | r bottleneck | x(GxWd) ResNeXt bottleneck, G groups, base width W
    BASE      base channels, left out when 64
    d         the deep stem: two 3x3 stride-2 convolutions instead of 7x7 and max-pooling
    SERIAL    one digit per residual block, `-` between stages: 1 keeps the width, 2 doubles it
    PARALLEL  per stage K = 0..3 sub-networks, `Ko` where they own their weights; `-` between stages

`r_111-2111-211111-211_0-0-0-0` is ResNet-50. The first block of every stage but the first has
stride 2 and nothing else changes the resolution: this is the reading of SP-NAS's first release;
later ones swapped the meaning of the digit and the dash. PARALLEL may be left out when decoding.
"""

from __future__ import annotations

import re

from spnas_hw.errors import InvalidArchitecture
from spnas_hw.space.architecture import BRANCHES_MAX, Architecture, Block, Stage

DEFAULT_BASE_CHANNELS = 64
CODE_LENGTH_MAX = 500
_NUMBER = "[1-9][0-9]{0,3}"
_TYPE = re.compile(rf"(?:b|r|x\(({_NUMBER})x({_NUMBER})d\))", re.ASCII)
_BASE = re.compile(_NUMBER, re.ASCII)


def encode(architecture: Architecture) -> str:
    """The canonical code of an architecture."""
    block = architecture.block
    kind = {"basic": "b", "bottleneck": "r", "resnext": f"x({block.groups}x{block.base_width}d)"}[block.kind]
    base = "" if architecture.base_channels == DEFAULT_BASE_CHANNELS else str(architecture.base_channels)
    stem = "d" if architecture.deep_stem else ""
    serial = "-".join("".join("2" if d else "1" for d in stage.doubles) for stage in architecture.stages)
    parallel = "-".join(f"{stage.branches}{'o' * stage.own_weights}" for stage in architecture.stages)
    return f"{kind}{base}{stem}_{serial}_{parallel}"


def block_from_code(code: str) -> Block:
    """The block type of a TYPE alone: `b`, `r` or `x(GxWd)`."""
    match = _TYPE.fullmatch(code)
    if match is None:
        raise InvalidArchitecture(code, 0, "a block type is b, r or x(GxWd), e.g. x(32x4d)")
    return _block(match)


def _block(match: re.Match[str]) -> Block:
    if match[1]:
        return Block("resnext", int(match[1]), int(match[2]))
    return Block("basic" if match[0] == "b" else "bottleneck")


def decode(code: str) -> Architecture:
    """The architecture of a code.

    Raises:
        InvalidArchitecture: with the position of the first character that does not fit.
    """
    if len(code) > CODE_LENGTH_MAX:
        raise InvalidArchitecture(
            code, CODE_LENGTH_MAX, f"a code has at most {CODE_LENGTH_MAX} characters, this one {len(code)}"
        )
    block, base_channels, deep_stem, position = _decode_type(code)
    serial, position = _decode_serial(code, position)
    parallel = _decode_parallel(code, position, len(serial))
    stages = tuple(Stage(d, *branches) for d, branches in zip(serial, parallel, strict=True))
    return Architecture(block, base_channels, deep_stem, stages)


def _decode_type(code: str) -> tuple[Block, int, bool, int]:
    match = _TYPE.match(code)
    if match is None:
        raise InvalidArchitecture(
            code, 0, "it must start with b (basic), r (bottleneck) or x(GxWd) (ResNeXt, e.g. x(32x4d))"
        )
    block, position = _block(match), match.end()
    base = _BASE.match(code, position)
    base_channels = int(base[0]) if base else DEFAULT_BASE_CHANNELS
    if base_channels % 2:
        raise InvalidArchitecture(code, position, f"the base channels must be even, not {base_channels}")
    if block.inner_width(base_channels) < 1:
        raise InvalidArchitecture(
            code, position, f"{base_channels} base channels leave no width for {block.groups} groups"
        )
    position = base.end() if base else position
    deep_stem = code[position : position + 1] == "d"
    position += deep_stem
    if code[position : position + 1] != "_":
        raise InvalidArchitecture(code, position, "expected base channels, d (deep stem) or _ here")
    return block, base_channels, deep_stem, position + 1


def _decode_serial(code: str, start: int) -> tuple[list[tuple[bool, ...]], int]:
    end = code.find("_", start)
    end = len(code) if end < 0 else end
    stages: list[tuple[bool, ...]] = []
    doubles: list[bool] = []
    for position in range(start, end + 1):
        char = code[position] if position < end else "-"
        if char in "12":
            doubles.append(char == "2")
        elif char != "-":
            raise InvalidArchitecture(
                code, position, f"{char!r} is no block: 1 keeps the width, 2 doubles it, - ends a stage"
            )
        elif not doubles:
            raise InvalidArchitecture(code, position, "a stage needs at least one block (1 or 2)")
        else:
            stages.append(tuple(doubles))
            doubles = []
    return stages, end


def _decode_parallel(code: str, end_of_serial: int, stages: int) -> list[tuple[int, bool]]:
    if end_of_serial == len(code):
        return [(0, False)] * stages
    position = end_of_serial + 1
    branches: list[tuple[int, bool]] = []
    while True:
        char = code[position : position + 1]
        if not char or char not in "0123":
            raise InvalidArchitecture(code, position, f"expected a number of branches, 0 to {BRANCHES_MAX}")
        own = code[position + 1 : position + 2] == "o"
        if own and char == "0":
            raise InvalidArchitecture(code, position + 1, "o needs at least one branch to own weights")
        branches.append((int(char), own))
        position += 1 + own
        if position == len(code):
            break
        if code[position] != "-":
            raise InvalidArchitecture(code, position, f"expected - between stages, not {code[position]!r}")
        position += 1
        if len(branches) == stages:
            break
    if len(branches) != stages or position != len(code):
        raise InvalidArchitecture(
            code, min(position, len(code)), f"the parallel part must name {stages} stages, one for each stage"
        )
    return branches
