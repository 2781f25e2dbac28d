"""Tables as files: what is wrong with one, taking one over, estimating one."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from profilers.errors import InvalidTable
from profilers.table import COLUMNS, LatencyTable, Provenance, Row
from spnas_hw.config import SearchConfig, configs_folder, load_search
from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.roofline import estimated_ms
from spnas_hw.errors import InvalidConfig
from spnas_hw.pipeline import tables
from spnas_hw.pipeline.tables import estimate, find_gpu, import_table, known_gpus, problems

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
    environment={"cpu": "x"},
)
STATISTICS = {"samples": 80, "median_ms": 5.0, "p10_ms": 4.5, "p90_ms": 5.5, "p99_ms": 6.0}
ROWS = (
    Row("overhead", "ok", latency_ms=0.01, latency_ci_ms=0.001),
    Row("block", "ok", latency_ms=1.25, latency_ci_ms=0.01, coefficient_of_variation=0.05, **STATISTICS),
    Row("fused away", "ok", latency_ms=-0.3, latency_ci_ms=0.002, **STATISTICS),
    Row("broken", "failed", reason="the runtime said 'no', twice"),
)
TABLE = LatencyTable(PROVENANCE, ROWS)
NAME = "fake-device-9-fake-fp32-b1-96x192"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    TABLE.write(tmp_path / "there" / NAME)
    return tmp_path / "there" / NAME


@pytest.fixture(scope="module")
def config() -> SearchConfig:
    return load_search("demo")


def edited(folder: Path, edit: Callable[[list[list[str]]], None], sealed: bool) -> tuple[str, ...]:
    """The problems after an edit of the cells of table.csv; sealed: with digests that fit again."""
    path = folder / "table.csv"
    cells = list(csv.reader(io.StringIO(path.read_text())))
    edit(cells)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(cells)
    path.write_text(text.getvalue())
    if sealed:
        seal(folder)
    return problems(folder)


def seal(folder: Path, **changes: object) -> None:
    """Compute the digests of a table again, as someone would who wants to hide an edit."""
    path = folder / "provenance.json"
    document = json.loads(path.read_text()) | changes
    del document["provenance_sha256"]
    document["table_sha256"] = hashlib.sha256((folder / "table.csv").read_bytes()).hexdigest()
    text = json.dumps(document, sort_keys=True).encode()
    document["provenance_sha256"] = hashlib.sha256(text).hexdigest()
    path.write_text(json.dumps(document, indent=1) + "\n")


def cell(row: int, column: str, value: str) -> Callable[[list[list[str]]], None]:
    def edit(cells: list[list[str]]) -> None:
        cells[row][cells[0].index(column)] = value

    return edit


def renamed(column: str, name: str) -> Callable[[list[list[str]]], None]:
    return cell(0, column, name)


def without(column: str) -> Callable[[list[list[str]]], None]:
    def edit(cells: list[list[str]]) -> None:
        place = cells[0].index(column)
        for line in cells:
            del line[place]

    return edit


def with_column(name: str) -> Callable[[list[list[str]]], None]:
    def edit(cells: list[list[str]]) -> None:
        for number, line in enumerate(cells):
            line.append("" if number else name)

    return edit


EDITS = {
    "missing column": (without("latency_ci_ms"), "it has no column latency_ci_ms"),
    "microseconds": (renamed("latency_ms", "latency_us"), "'latency_us' is in other units: 'latency_ms'"),
    "seconds": (renamed("latency_ms", "latency_s"), "'latency_s' is in other units: 'latency_ms'"),
    "other statistic": (renamed("p90_ms", "p90_us"), "'p90_us' is in other units: 'p90_ms'"),
    "joules": (renamed("energy_mj", "energy_j"), "'energy_j' is in other units: 'energy_mj'"),
    "unknown column": (with_column("colour"), "'colour' is unknown"),
    "column twice": (with_column("p99_ms"), "a column twice"),
    "nan": (cell(2, "latency_ms", "nan"), "row 'block': latency_ms is nan, not finite"),
    "infinite": (cell(2, "latency_ci_ms", "inf"), "row 'block': latency_ci_ms is inf, not finite"),
    "a word": (cell(2, "median_ms", "fast"), "row 'block': median_ms is 'fast', no number"),
    "negative": (cell(2, "latency_ms", "-0.7"), "'block': latency_ms -0.7 is negative beyond its confidence"),
    "no statistics": (cell(1, "latency_ms", "-0.002"), "'overhead': latency_ms -0.002 is negative beyond"),
    "negative width": (cell(2, "latency_ci_ms", "-1"), "latency_ci_ms is -1; it cannot be negative"),
    "negative count": (cell(2, "samples", "-3"), "samples is -3; it cannot be negative"),
    "duplicate": (cell(3, "key", "block"), "key 'block' occurs 2 times"),
    "a minute": (cell(2, "latency_ms", "61000"), "more than a minute: are these microseconds?"),
    "mixed units": (cell(2, "latency_ms", "1250"), "above median_ms 5, of a network that holds it"),
    "slow overhead": (cell(1, "latency_ms", "10"), "above that of the reference network (2)"),
    "percentiles": (cell(2, "p90_ms", "5500"), "p10_ms, median_ms, p90_ms and p99_ms do not ascend"),
    "status": (cell(2, "status", "fine"), "row 'block' has status 'fine'"),
    "failed without a reason": (cell(4, "reason", ""), "row 'broken' is failed: it needs a reason"),
    "a cell short": (lambda cells: cells[-1].pop(), "the file is cut short"),
}


@pytest.mark.parametrize("case", EDITS)
@pytest.mark.parametrize("sealed", [False, True])
def test_every_fault_has_its_line(folder: Path, case: str, sealed: bool) -> None:
    edit, words = EDITS[case]
    found = edited(folder, edit, sealed)
    specific = [line for line in found if words in line]
    assert all("\n" not in line for line in found)
    if sealed:
        assert specific == list(found), found
    else:
        assert "sha256" in found[-1], found
        # A value that only the whole table shows to be wrong is not looked at in a file that was changed.
        assert len(found) == len(specific) + 1 or len(found) == 1


def test_what_is_sound_has_no_problems(folder: Path) -> None:
    assert problems(folder) == ()


def test_a_correction_may_be_negative(folder: Path) -> None:
    LatencyTable(PROVENANCE, (dataclasses.replace(ROWS[1], correction_ms=-0.2),)).write(folder)
    assert problems(folder) == ()


@pytest.mark.parametrize("name", ["table.csv", "provenance.json"])
def test_a_file_that_is_gone(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (line,) = problems(folder)
    assert line.startswith(f"cannot read {name}") and "copy both" in line


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot read table.csv" in problems(tmp_path / "nowhere")[0]


@pytest.mark.parametrize("sealed", [False, True])
def test_truncated_within_a_line(folder: Path, sealed: bool) -> None:
    path = folder / "table.csv"
    path.write_bytes(path.read_bytes()[:-20])
    if sealed:
        seal(folder)
    assert any("cut short" in line for line in problems(folder))


def test_truncated_at_the_end_of_a_line(folder: Path) -> None:
    path = folder / "table.csv"
    path.write_bytes(path.read_bytes().rsplit(b"broken", 1)[0])
    (line,) = problems(folder)
    assert "sha256" in line


@pytest.mark.parametrize("keep", [0, 1])
def test_truncated_to_nothing(folder: Path, keep: int) -> None:
    path = folder / "table.csv"
    path.write_bytes(path.read_bytes()[:keep])
    seal(folder)
    assert problems(folder)


def test_a_table_in_the_working_folder(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert problems(Path()) == ()
    (folder / "table.csv").unlink()
    assert "cannot read table.csv" in problems(Path())[0]


def test_truncated_provenance(folder: Path) -> None:
    path = folder / "provenance.json"
    path.write_bytes(path.read_bytes()[:-3])
    (line,) = problems(folder)
    assert line.startswith("provenance.json cannot be read")


def test_edited_provenance(folder: Path) -> None:
    path = folder / "provenance.json"
    path.write_text(path.read_text().replace('"batch": 1', '"batch": 8'))
    (line,) = problems(folder)
    assert "was changed after it was written" in line
    seal(folder, reference_ms=-2.0)
    assert "reference_ms" in problems(folder)[0]


def test_import_round_trip(folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(folder.with_name("any name"))
    target = import_table(moved, tmp_path / "tables", replace=False)
    assert target == tmp_path / "tables" / NAME
    assert LatencyTable.read(target) == TABLE
    assert import_table(moved, tmp_path / "tables", replace=False) == target  # there already
    assert import_table(target, tmp_path / "tables", replace=False) == target
    assert [path.name for path in target.parent.iterdir()] == [NAME]


def test_import_overwrites_only_when_told(folder: Path, tmp_path: Path) -> None:
    other = LatencyTable(PROVENANCE, ROWS[:1])
    other.write(tmp_path / "tables" / NAME)
    with pytest.raises(InvalidTable, match=r"holds another table.*--replace"):
        import_table(folder, tmp_path / "tables", replace=False)
    assert LatencyTable.read(tmp_path / "tables" / NAME) == other
    import_table(folder, tmp_path / "tables", replace=True)
    assert LatencyTable.read(tmp_path / "tables" / NAME) == TABLE


def test_import_of_what_is_damaged_leaves_what_is_there(folder: Path, tmp_path: Path) -> None:
    other = LatencyTable(PROVENANCE, ROWS[:1])
    other.write(tmp_path / "tables" / NAME)
    edited(folder, cell(2, "latency_ms", "nan"), sealed=True)
    with pytest.raises(InvalidTable, match=r"not imported: table.csv: row 'block'"):
        import_table(folder, tmp_path / "tables", replace=True)
    assert LatencyTable.read(tmp_path / "tables" / NAME) == other


def test_a_full_disk_leaves_what_is_there(folder: Path, tmp_path: Path, monkeypatch) -> None:
    other = LatencyTable(PROVENANCE, ROWS[:1])
    other.write(tmp_path / "tables" / NAME)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Path, "write_bytes", full)
        import_table(folder, tmp_path / "tables", replace=True)
    assert LatencyTable.read(tmp_path / "tables" / NAME) == other
    assert [path.name for path in (tmp_path / "tables").iterdir()] == [NAME]


def test_an_estimate_is_one_and_says_so(config: SearchConfig, tmp_path: Path) -> None:
    folder = estimate(config, "V100", "fp16", tmp_path)
    assert folder == tmp_path / "nvidia-v100-sxm2-estimate-fp16-b1-192x384"
    table = LatencyTable.read(folder)
    assert problems(folder) == ()
    assert table.provenance.estimated and table.provenance.runtime == "estimate"
    assert table.provenance.runtime_version == "roofline 1"
    assert table.provenance.device == "NVIDIA V100 SXM2"
    loads = closed_set(config.space, config.detector, config.size)
    assert table.costs() == {key: estimated_ms(load, find_gpu("V100"), "fp16") for key, load in loads.items()}
    for row in table.rows:
        assert row.note is not None and row.note.startswith("estimated, ")
        told = {name for name, value in dataclasses.asdict(row).items() if value is not None}
        assert told == {"key", "status", "latency_ms", "note"} and row.status == "estimated"


def test_an_estimate_is_not_taken_for_another_use(config: SearchConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(config, space=dataclasses.replace(config.space, deep_stem=True))
    folder = estimate(config, "T4", "fp32", tmp_path)
    with pytest.raises(InvalidConfig, match="another search space"):
        estimate(other, "T4", "fp32", tmp_path)
    before = LatencyTable.read(folder)
    assert LatencyTable.read(estimate(config, "T4", "fp32", tmp_path)).rows == before.rows


def test_a_precision_without_a_rate_writes_nothing(config: SearchConfig, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="V100 SXM2 names no int8 rate"):
        estimate(config, "V100", "int8", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("V100", "NVIDIA V100 SXM2"),
        ("v100-sxm2", "NVIDIA V100 SXM2"),
        ("V100S", "NVIDIA V100S PCIe"),
        ("rtx3090", "NVIDIA GeForce RTX 3090"),
        ("Orin", "NVIDIA Jetson AGX Orin 64GB"),
        ("a100 pcie", "NVIDIA A100 PCIe 80GB"),
        ("NVIDIA L4", "NVIDIA L4"),
    ],
)
def test_gpus_are_found_by_a_word(word: str, name: str) -> None:
    assert find_gpu(word).name == name


@pytest.mark.parametrize("word", ["GTX 9999", "", "-"])
def test_an_unknown_gpu_lists_the_known_ones(word: str) -> None:
    with pytest.raises(InvalidConfig, match="no GPU named like") as caught:
        find_gpu(word)
    assert all(key in str(caught.value) for key in known_gpus()) and "\n" not in str(caught.value)


def test_an_ambiguous_word_lists_what_it_may_mean() -> None:
    with pytest.raises(InvalidConfig, match=r"known are RTX 2080 Ti, RTX 3090, RTX 4090$"):
        find_gpu("RTX")


def test_the_shipped_figures_hang_together() -> None:
    gpus = known_gpus()
    assert {"V100", "T4", "A100", "H100", "H200", "L4", "RTX 3090", "RTX 4090", "AGX Orin"} <= set(gpus)
    assert len({gpu.name for gpu in gpus.values()}) == len(gpus)
    for gpu in gpus.values():
        assert gpu.fp16_tflops is None or gpu.fp32_tflops < gpu.fp16_tflops
        assert gpu.int8_tops is None or gpu.fp16_tflops is None or gpu.fp16_tflops < gpu.int8_tops


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fp32_tflop": 1.0}, "gpus.yml: T4: unknown key fp32_tflop; did you mean fp32_tflops?"),
        ({"memory_gb": "large"}, "gpus.yml: T4: memory_gb: "),
        ({"int8_tops": 0}, "gpus.yml: T4: the file: int8_tops is 0"),
        ({"source": None}, "gpus.yml: T4: source: "),
    ],
)
def test_the_figures_are_read_strictly(tmp_path: Path, monkeypatch, change: dict, words: str) -> None:
    document = yaml.safe_load((configs_folder() / "gpus.yml").read_text())
    (tmp_path / "gpus.yml").write_text(yaml.safe_dump({"T4": document["T4"] | change}))
    monkeypatch.setattr(tables, "configs_folder", lambda: tmp_path)
    with pytest.raises(InvalidConfig) as caught:
        known_gpus()
    assert str(caught.value).startswith(words)


def test_the_columns_checked_are_those_of_a_row() -> None:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(Row)}
    texts = {name for name, kind in kinds.items() if "str" in kind or "Literal" in kind}
    assert set(tables._TEXT) == texts < set(COLUMNS)
