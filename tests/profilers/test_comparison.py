from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.comparison import Pair, compare
from profilers.table import LatencyTable, Provenance, Row

PROVENANCE = Provenance(
    device="Fake Device 9",
    runtime="fake",
    runtime_version="1",
    precision="fp32",
    batch=1,
    input_height=96,
    input_width=192,
    threads=1,
    reference_ms=2.0,
    date="2030-01-02T03:04:05Z",
    space_hash="s",
    manifest_sha256="m",
    tool_version="1",
    environment={"cpu": "x"},
)


def ok(key: str, latency_ms: float, ci_ms: float = 0.0) -> Row:
    return Row(key, "ok", latency_ms=latency_ms, latency_ci_ms=ci_ms)


def table(*rows: Row, **changes: object) -> LatencyTable:
    return LatencyTable(PROVENANCE.model_copy(update=changes), rows)


numbers = st.one_of(st.floats(-10, 0), st.floats(1e-9, 1e4))
row_of = st.one_of(
    st.builds(lambda ms, ci: ok("", ms, ci), numbers, st.floats(0, 10)),
    st.builds(lambda reason: Row("", "failed", reason=reason), st.text(min_size=1)),
)
tables = st.dictionaries(st.text("abcdef", min_size=1, max_size=2), row_of, max_size=8).map(
    lambda rows: table(*(dataclasses.replace(row, key=key) for key, row in rows.items()))
)


@given(tables)
def test_a_table_does_not_differ_from_itself(one: LatencyTable) -> None:
    found = compare(one, one)
    assert [pair.key for pair in found.pairs] == [row.key for row in one.rows]
    assert not (found.only_a or found.only_b or found.provenance or found.differing(0.0))
    assert set(found.ratios.values()) <= {1.0}
    assert found.speed == 1.0


@given(tables, tables)
def test_the_other_way_round_is_the_inverse(a: LatencyTable, b: LatencyTable) -> None:
    one, other = compare(a, b), compare(b, a)
    assert (one.only_a, one.only_b) == (other.only_b, other.only_a)
    assert {pair.key for pair in one.differing(0.1)} == {pair.key for pair in other.differing(0.1)}
    assert one.ratios.keys() == other.ratios.keys()
    for key, ratio in one.ratios.items():
        assert ratio * other.ratios[key] == pytest.approx(1)
    assert one.sums_ms == pytest.approx(other.sums_ms[::-1])
    assert len(one.pairs) + len(one.only_a) == len(a.rows)
    assert len(one.pairs) + len(one.only_b) == len(b.rows)


@pytest.mark.parametrize(
    ("a", "b", "beyond"),
    [
        (ok("k", 1.0, 0.1), ok("k", 1.3, 0.1), True),
        (ok("k", 1.0, 0.2), ok("k", 1.3, 0.2), False),
        (ok("k", 1.0, 0.0), ok("k", 1.0, 0.0), False),
        (ok("k", -0.1, 0.05), ok("k", 0.1, 0.05), True),
        (ok("k", 1.0, 0.1), Row("k", "failed", reason="r"), False),
    ],
)
def test_beyond_both_intervals_means_they_are_disjoint(a: Row, b: Row, beyond: bool) -> None:
    assert Pair(a, b).is_beyond_intervals is Pair(b, a).is_beyond_intervals is beyond


def test_the_threshold_is_a_fraction_either_way() -> None:
    slower, faster = Pair(ok("k", 1.0), ok("k", 1.25)), Pair(ok("k", 1.25), ok("k", 1.0))
    assert slower.differs(0.2) and faster.differs(0.2)
    assert not slower.differs(0.3) and not faster.differs(0.3)


def test_what_failed_in_one_only_differs_and_has_no_ratio() -> None:
    failed = Row("k", "failed", reason="r")
    assert Pair(ok("k", 1.0), failed).differs(9.0) and Pair(ok("k", 1.0), failed).ratio is None
    assert not Pair(failed, failed).differs(0.0)
    assert Pair(ok("k", -0.1, 0.2), ok("k", 1.0, 0.1)).ratio is None


def test_no_ratio_beyond_what_a_float_holds() -> None:
    assert Pair(ok("k", 5e-324), ok("k", 1e4)).ratio is None
    assert Pair(ok("k", 1e4), ok("k", 5e-324)).ratio is None


def test_by_hand() -> None:
    a = table(ok("x", 1.0), ok("y", 4.0), ok("z", 1.0), ok("gone", 9.0))
    b = table(ok("z", 1.1), ok("y", 1.0), ok("x", 1.2), ok("new", 9.0), Row("f", "failed", reason="r"))
    found = compare(a, b)
    assert [pair.key for pair in found.pairs] == ["x", "y", "z"]
    assert found.only_a == ("gone",) and found.only_b == ("new", "f")
    assert found.median_ratio == 1.1 and found.worst == ("y", 0.25)
    assert found.sums_ms == (6.0, pytest.approx(3.3))


def test_nothing_in_common() -> None:
    found = compare(table(ok("x", 1.0)), table(ok("y", 1.0)))
    assert found.median_ratio is None and found.worst is None and found.sums_ms == (0, 0)


def test_the_provenance_that_differs_is_named() -> None:
    found = compare(table(), table(precision="fp16", environment={"cpu": "y", "gpu": None, "clock": 1}))
    assert {item.field: (item.a, item.b) for item in found.provenance} == {
        "precision": ("fp32", "fp16"),
        "environment.cpu": ("x", "y"),
        "environment.clock": (None, 1),
    }


def test_the_reference_tells_of_one_device_only() -> None:
    assert compare(table(), table(reference_ms=3.0)).speed == 1.5
    assert compare(table(), table(reference_ms=3.0, device="Other")).speed is None
    assert compare(table(), table(reference_ms=3.0, runtime="other")).speed is None
    estimated = table(estimated=True, reference_ms=None, manifest_sha256=None)
    assert compare(estimated, estimated).speed is None
