from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.errors import InvalidArchitecture
from spnas_hw.space.architecture import Feature
from spnas_hw.space.codec import decode, encode
from tests.strategies import architectures

PUBLISHED = (
    "r_111-2111-211111-211_0-0-0-0",
    "x(32x4d)_1111-21111-2111111111111111111111111-211-1_1-0-2-1-2",
    "r_11121111-21111-112-1111-1111_0-0-2-0-3",
)


@pytest.mark.parametrize("code", [*PUBLISHED, "b16d_11-21-21-21_0-0-2o-3", "b_1_0"])
def test_canonical_codes_survive(code: str) -> None:
    assert encode(decode(code)) == code


@given(architectures())
def test_every_architecture_survives(architecture) -> None:
    assert decode(encode(architecture)) == architecture


def test_parallel_part_may_be_left_out() -> None:
    assert encode(decode("r_11-21")) == "r_11-21_0-0"


def test_default_base_is_left_out() -> None:
    assert encode(decode("r64d_11-21_0-0")) == "rd_11-21_0-0"


def test_digit_doubles_and_dash_strides() -> None:
    """In the reading of later releases of the ancestor (digit = stride) both lines would differ."""
    assert decode("r_11121111-21111-112-1111-1111").features() == tuple(
        Feature(channels, stride)
        for channels, stride in ((512, 4), (1024, 8), (2048, 16), (2048, 32), (2048, 64))
    )
    assert decode("b_1112-1-2").features() == (Feature(128, 4), Feature(128, 8), Feature(256, 16))


@pytest.mark.parametrize(
    ("code", "position"),
    [
        ("", 0),
        ("q_11", 0),
        ("r", 1),
        ("r_", 2),
        ("r_13-1", 3),
        ("r_1--1", 4),
        ("r_-11", 2),
        ("r_11-", 5),
        ("r_11_", 5),
        ("r_11-21_0", 9),
        ("r_11-21_0-", 10),
        ("r_11-21_0-0-0", 12),
        ("r_11-21_0-4", 10),
        ("r_11-21_0o-0", 9),
        ("r_11-21_0x0", 9),
        ("r_11-21_0-0_0", 11),
        ("r_11-21_0-0\n", 11),
        ("r15_11", 1),
        ("r064_11", 1),
        ("rdd_11", 2),
        ("x_11", 0),
        ("x(0x4d)_11", 0),
        ("x(32x4d)2_11", 8),
        ("x(32x4)_11", 0),
        ("r_1\u00e91", 3),
        ("r_1\uff11", 3),
        ("r_1\u00b2", 3),
        ("r_" + "1" * 10_000, 500),
        (" r_11", 0),
        ("R_11", 0),
    ],
)
def test_bad_codes_name_the_position(code: str, position: int) -> None:
    with pytest.raises(InvalidArchitecture) as caught:
        decode(code)
    assert caught.value.position == position
    assert str(position) in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=40))
def test_no_text_crashes(text: str) -> None:
    try:
        architecture = decode(text)
    except InvalidArchitecture as error:
        assert 0 <= error.position <= len(text)
    else:
        assert decode(encode(architecture)) == architecture


@given(architectures(), st.data())
def test_a_damaged_code_is_another_architecture_or_an_error(architecture, data) -> None:
    code = encode(architecture)
    position = data.draw(st.integers(0, len(code) - 1))
    damaged = code[:position] + data.draw(st.sampled_from("012389-_rbxdo(")) + code[position + 1 :]
    try:
        other = decode(damaged)
    except InvalidArchitecture:
        return
    assert (encode(other) == code) == (other == architecture)
