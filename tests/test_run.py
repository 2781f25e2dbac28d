from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from profilers.nvml import GpuDevice
from profilers.table import LatencyTable
from spnas_hw.config import SearchConfig, load_search
from spnas_hw.cost.constraints import Budget
from spnas_hw.errors import InfeasibleBudget, InvalidConfig, RunError
from spnas_hw.pipeline.report import report
from spnas_hw.pipeline.start import check
from spnas_hw.run import JOURNAL, Run, changes_since, find_table
from spnas_hw.search.journal import Journal
from spnas_hw.space.codec import decode, encode
from tests.search.trials import trial
from tests.tables import write_table


@pytest.fixture(scope="module")
def config() -> SearchConfig:
    return load_search("demo")


@pytest.fixture
def make(tmp_path: Path, config: SearchConfig):
    """A run under a table in which every workload takes 1 ms."""

    def made(latency=lambda load: 1.0, **limits: float) -> Run:
        table = write_table(tmp_path / "table", config, latency)
        return Run(tmp_path / "run", config, Budget(**limits), table)

    return made


def test_headroom_is_left_free(make, config) -> None:
    code = "b16_11-21-21-21"
    predicted = make().price(decode(code)).latency_ms
    assert predicted == 1 + 1 + 8 + 4 + 4  # overhead, stem, blocks, laterals, heads
    tight = predicted / (1 - config.headroom)
    assert make(latency_ms=tight + 0.01).objections(decode(code)) == ()
    assert make(latency_ms=tight - 0.01).objections(decode(code)) != ()


def test_the_configured_start_is_taken_when_it_fits(make, config) -> None:
    assert make(latency_ms=100).start() == (decode(config.start), None)


def test_another_start_meets_every_limit(make, config) -> None:
    """Also those that are not the latency."""
    start = make().price(decode(config.start))
    for limits in ({"macs": start.macs * 0.9}, {"params": start.params * 0.9}):
        run = make(latency_ms=1000, **limits)
        architecture, note = run.start()
        assert run.objections(architecture) == () and config.start in note
    with pytest.raises(InfeasibleBudget, match="memory_mb binds"):
        make(latency_ms=1000, memory_mb=start.memory_mb / 2).start()


def test_unmeasured_networks_are_no_candidates(make) -> None:
    run = make(lambda load: None if load.key.startswith("basic-16-16-s1") else 1.0, latency_ms=100)
    (objection,) = run.objections(decode("b16_11-21-21-21"))
    assert "unmeasured" in objection


def test_an_impossible_budget_is_refused_before_anything_is_written(make) -> None:
    run = make(latency_ms=0.01)
    with pytest.raises(InfeasibleBudget, match="smallest reachable"):
        check(run, False, ["serial"])
    assert not run.folder.exists()


def test_a_folder_that_holds_a_search_is_not_taken(make) -> None:
    run = make(latency_ms=100)
    check(run, False, ["serial"])
    with pytest.raises(RunError, match="no search to resume"):
        check(run, True, ["serial"])
    Journal(run.folder / JOURNAL, run.header())
    check(run, True, ["serial"])
    with pytest.raises(RunError, match="--resume"):
        check(run, False, ["serial"])


def test_a_run_is_opened_as_it_was(make, config) -> None:
    run = make(latency_ms=100, macs=1e9)
    Journal(run.folder / JOURNAL, run.header())
    opened = Run.open(run.folder)
    assert (opened.budget, opened.table_folder) == (run.budget, run.table_folder)
    same_counts = replace(opened.config, serial=config.serial, parallel=config.parallel)
    assert same_counts == config
    assert opened.header() == run.header() == json.loads(json.dumps(run.header()))


@pytest.mark.parametrize("damage", ["config", "budget", "table_folder"])
def test_a_run_of_another_version_is_one_line(make, damage: str) -> None:
    run = make(latency_ms=100)
    header = run.header()
    del header[damage]
    Journal(run.folder / JOURNAL, header)
    with pytest.raises(RunError, match="another version"):
        Run.open(run.folder)


def journal_of(run: Run, *trials) -> None:
    journal = Journal(run.folder / JOURNAL, run.header())
    for one in trials:
        journal.append(one)


def test_winner_and_baseline(make) -> None:
    run = make(latency_ms=100)
    journal_of(run)
    with pytest.raises(RunError, match="no validated trial"):
        run.winner()
    journal_of(
        run,
        trial(0, "b16_11-21-21-21_0-0-0-0", 0.1, iterations=10),
        trial(1, "b16_12-21-21-21_0-0-0-0", None, iterations=15),
        trial(2, "b16_111-21-21-21_0-0-0-0", 0.3, iterations=20),
    )
    assert run.winner().trial_id == 2 and run.baseline() is None
    longer = Journal(run.folder / "baseline" / JOURNAL, {})
    for index, iterations in enumerate((10, 15, 20, 25)):
        longer.append(trial(index, "b16_11-21-21-21_0-0-0-0", 0.1, iterations=iterations))
    assert run.baseline().iterations == 20  # as long as the winner, no longer


def test_a_report_never_lends_a_measurement_to_another_network(make) -> None:
    run = make(latency_ms=100)
    first = trial(0, "b16_11-21-21-21_0-0-0-0", 0.1, iterations=10)
    journal_of(run, first)
    from spnas_hw.export.bundle import write_bundle

    latency = {"clock": {"median_ms": 9.0}, "drift": 1.0, "on_target": True}
    metadata = {"code": first.code, "iterations": 10, "precision": "fp32", "latency": latency}
    for changed, measured_ms in (
        ({}, 9.0),
        ({"precision": "int8"}, None),
        ({"latency": {**latency, "on_target": False}}, None),
    ):
        write_bundle(run.folder / "bundle", {}, {**metadata, **changed})
        assert report(run)[1][-1]["measured_latency_ms"] == measured_ms
    (run.folder / "bundle" / "metadata.json").write_text("{")
    assert report(run)[1][-1]["measured_latency_ms"] is None
    (run.folder / "bundle" / "metadata.json").unlink()
    write_bundle(run.folder / "bundle", {}, metadata)
    journal_of(run, trial(1, "b16_111-21-21-21_0-0-0-0", 0.2, iterations=20))
    (row,) = report(run)[1]
    assert row["code"] == encode(decode("b16_111-21-21-21")) and row["measured_latency_ms"] is None


def stored(home: Path, name: str, device: str, config: SearchConfig) -> Path:
    """A table of a device in a folder of `home`."""
    table = LatencyTable.read(write_table(home / name, config, lambda load: 1.0))
    LatencyTable(table.provenance.model_copy(update={"device": device}), table.rows).write(home / name)
    return home / name


def test_the_table_of_this_machine_is_found(
    tmp_path: Path, config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spnas_hw.run.cpu_name", lambda: "This CPU")
    monkeypatch.setattr("profilers.nvml.devices", lambda: [])
    other = stored(tmp_path, "v100", "Tesla V100-SXM2", config)
    with pytest.raises(InvalidConfig, match=r"no latency tables of this machine.*v100"):
        find_table(tmp_path, config.size)  # another device's table is never taken silently
    own = stored(tmp_path, "own", "This CPU", config)
    assert find_table(tmp_path, config.size) == own and find_table(tmp_path, config.size, "v100") == other
    assert find_table(tmp_path, (32, 64)) == own  # whoever reads it says what does not fit
    larger = stored(tmp_path, "larger", "This CPU", replace(config, input_height=2 * config.input_height))
    assert find_table(tmp_path, config.size) == own
    assert find_table(tmp_path, (2 * config.input_height, config.input_width)) == larger
    stored(tmp_path, "own-fp16", "This CPU", config)
    with pytest.raises(InvalidConfig, match="3 latency tables"):
        find_table(tmp_path, config.size)


def test_a_newer_runtime_or_driver_is_told(
    tmp_path: Path, config: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LatencyTable.read(stored(tmp_path, "v100", "Tesla V100", config))
    gpu = GpuDevice(0, "Tesla V100", "hash", 16 << 30, "7.0", "580.2")
    monkeypatch.setattr("profilers.nvml.devices", lambda: [gpu])
    monkeypatch.setattr("spnas_hw.run.package_version", {"tensorrt-cu12": "10.4.0"}.get)

    def changes(version: str, driver: str | None, device: str = "Tesla V100") -> list[str]:
        update = {
            "runtime": "tensorrt",
            "runtime_version": version,
            "device": device,
            "environment": {"driver_version": driver},
        }
        return changes_since(LatencyTable(table.provenance.model_copy(update=update), table.rows))

    assert changes("10.4.0", "580.2") == changes("10.4.0", None) == []
    assert changes("10.3.0", "580.2") == ["tensorrt 10.3.0, here it is 10.4.0"]
    assert changes("10.4.0", "570.1") == ["driver 570.1, here it is 580.2"]
    assert changes("10.4.0", "570.1", device="Tesla T4") == []  # that GPU is not here
