from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.errors import InvalidTable, TableMismatch
from profilers.table import COLUMNS, LatencyTable, Provenance, Row

PROVENANCE = Provenance(
    device="Fake(R) Device 9",
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
    environment={"cpu": "x", "cpu_count": 2, "power_w": 1.5, "gpu": None},
)
ROWS = (
    Row(
        "a,b",
        "ok",
        latency_ms=1.25,
        latency_ci_ms=0.01,
        correction_ms=-0.05,
        chain_residual=0.001,
        samples=80,
        median_ms=5.0,
        p10_ms=4.5,
        p90_ms=5.5,
        p99_ms=6.0,
        coefficient_of_variation=0.05,
        throttled=3,
        rebuild_cv=0.01,
        build_s=2.5,
        weights_bytes=1 << 40,
        activation_bytes=7,
        device_bytes=9,
        energy_mj=0.5,
        note="no graph, sadly",
    ),
    Row("fused away", "ok", latency_ms=-0.001, latency_ci_ms=0.002),
    Row("broken", "failed", reason="the runtime said 'no', twice"),
)
TABLE = LatencyTable(PROVENANCE, ROWS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TABLE.write(tmp_path / "table")
    return tmp_path / "table"


def refusal(folder: Path) -> str:
    with pytest.raises(InvalidTable) as caught:
        LatencyTable.read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(folder: Path) -> None:
    assert LatencyTable.read(folder) == TABLE


def test_name() -> None:
    assert TABLE.name() == "fake-device-9-fake-fp32-b1-96x192"


def test_costs_and_failures_are_apart() -> None:
    assert TABLE.costs() == pytest.approx({"a,b": 1.2, "fused away": -0.001})
    assert TABLE.failures() == {"broken": "the runtime said 'no', twice"}


def test_unmeasured_is_empty_and_not_zero(folder: Path) -> None:
    frame = pandas.read_csv(folder / "table.csv")
    assert tuple(frame.columns) == COLUMNS
    assert frame.loc[frame.key == "broken", "latency_ms":"note"].isna().all().all()


def test_writing_replaces_and_leaves_nothing_behind(folder: Path) -> None:
    LatencyTable(PROVENANCE, ROWS[:1]).write(folder)
    assert LatencyTable.read(folder).rows == ROWS[:1]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"table.csv", "provenance.json"}


@pytest.mark.parametrize(
    ("name", "value"), [("batch", 2), ("precision", "fp16"), ("input_height", 97), ("input_width", 193)]
)
def test_another_use_is_refused_naming_both(name: str, value: int | str) -> None:
    asked = {"batch": 1, "precision": "fp32", "input_height": 96, "input_width": 192}
    TABLE.require(**asked)  # type: ignore[arg-type]
    with pytest.raises(TableMismatch, match=f"{name} {asked[name]}, not {value}"):
        TABLE.require(**asked | {name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("file", ["table.csv", "provenance.json"])
def test_missing_file(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert file in refusal(folder)


def test_missing_folder(tmp_path: Path) -> None:
    assert "nowhere" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["table.csv", "provenance.json"])
@given(st.data())
def test_truncation_anywhere_is_refused(file: str, data: st.DataObject) -> None:
    with _written() as folder:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        refusal(folder)


@pytest.mark.parametrize("file", ["table.csv", "provenance.json"])
@given(st.data())
def test_any_changed_byte_is_refused(file: str, data: st.DataObject) -> None:
    with _written() as folder:
        content = bytearray((folder / file).read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        was = content[place]
        content[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != was))
        (folder / file).write_bytes(content)
        try:
            assert LatencyTable.read(folder) == TABLE  # white space of the JSON is not content
        except InvalidTable as error:
            assert "\n" not in str(error)
        else:
            assert file == "provenance.json" and bytes([was]).isspace()


def test_table_of_another_folder(folder: Path, tmp_path: Path) -> None:
    LatencyTable(PROVENANCE, ROWS[:1]).write(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "table.csv", folder / "table.csv")
    assert "table.csv is not the one" in refusal(folder)


def test_edited_provenance(folder: Path) -> None:
    path = folder / "provenance.json"
    path.write_text(path.read_text().replace('"batch": 1', '"batch": 8'))
    assert "provenance.json was changed" in refusal(folder)


@pytest.mark.parametrize(
    "row",
    [
        {"status": "ok"},
        {"status": "ok", "latency_ms": 1.0},
        {"status": "ok", "latency_ms": float("nan"), "latency_ci_ms": 0.1},
        {"status": "ok", "latency_ms": 1.0, "latency_ci_ms": float("inf")},
        {"status": "failed"},
        {"status": "failed", "latency_ms": 0.0, "reason": "x"},
    ],
)
def test_rows_that_lie_are_refused(row: dict[str, object]) -> None:
    with pytest.raises(InvalidTable):
        Row("k", **row)  # type: ignore[arg-type]


def test_keys_are_unique(tmp_path: Path) -> None:
    with pytest.raises(InvalidTable):
        LatencyTable(PROVENANCE, ROWS[:1] * 2).write(tmp_path / "t")


class _written:
    """A folder with the table, for tests that hypothesis repeats."""

    def __enter__(self) -> Path:
        self._folder = tempfile.TemporaryDirectory()
        TABLE.write(Path(self._folder.name) / "table")
        return Path(self._folder.name) / "table"

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()


def test_an_estimate_has_nothing_that_only_a_measurement_tells(tmp_path: Path) -> None:
    about = PROVENANCE.model_copy(
        update={"estimated": True, "reference_ms": None, "manifest_sha256": None, "runtime": "estimate"}
    )
    table = LatencyTable(about, (Row("a", "estimated", latency_ms=1.0, note="roofline"),))
    table.write(tmp_path / "e")
    assert LatencyTable.read(tmp_path / "e") == table and table.costs() == {"a": 1.0}
    with pytest.raises(InvalidTable, match="estimated"):
        Row("a", "estimated", latency_ms=1.0, latency_ci_ms=0.1)
    for half in ({"estimated": True}, {"reference_ms": None}):
        with pytest.raises(ValueError, match="neither"):
            Provenance(**{**PROVENANCE.model_dump(), **half})


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
def test_an_interrupted_replacement_leaves_one_whole_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, is_done: bool, number: int
) -> None:
    """Interrupted before or after one of the two renames."""
    replace, calls = os.replace, iter(range(9))

    def interrupted(source: Path, target: Path) -> None:
        here = next(calls) == number
        if is_done or not here:
            replace(source, target)
        if here:
            raise error

    monkeypatch.setattr(os, "replace", interrupted)
    fresh = LatencyTable(PROVENANCE, ROWS[:1])
    with pytest.raises(type(error)):
        fresh.write(folder)
    assert LatencyTable.read(folder) == (fresh if is_done and number == 1 else TABLE)
    assert [path.name for path in folder.parent.iterdir()] == ["table"]


def test_a_written_table_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    fsync = os.fsync

    def sync(handle: int) -> None:
        fsync(handle)
        synced.add(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    TABLE.write(tmp_path / "table")
    parts = (tmp_path, tmp_path / "table", tmp_path / "table/table.csv", tmp_path / "table/provenance.json")
    assert synced == {path.stat().st_ino for path in parts}


def test_two_threads_and_one_are_two_tables() -> None:
    one, two = (LatencyTable(PROVENANCE.model_copy(update={"threads": n}), ()).name() for n in (1, 2))
    assert one != two and "2-threads" in two
