"""What a search may begin with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spnas_hw.config import SearchConfig, load_search
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.workload import Connection
from spnas_hw.errors import InvalidConfig, RunError
from spnas_hw.pipeline.start import adopt, best_serial, check, phases_of, run_named
from spnas_hw.run import JOURNAL, WEIGHTS, Run
from spnas_hw.search.journal import Journal
from spnas_hw.search.parallel import ParallelSettings
from spnas_hw.space.codec import decode
from tests.search.trials import trial
from tests.tables import write_table

START, BETTER = "b16_11-21-21-21_0-0-0-0", "b16_111-21-21-21_0-0-0-0"
Make = Callable[..., Run]
AMPLE = Budget(macs=1e10)


@pytest.fixture
def config() -> SearchConfig:
    return replace(load_search("demo"), parallel=ParallelSettings(2))


@pytest.fixture
def make(tmp_path: Path, config: SearchConfig) -> Make:
    def run(name: str = "new", budget: Budget = AMPLE, table: Path | None = None, **changes: Any) -> Run:
        return Run(tmp_path / name, replace(config, **changes), budget, table)

    return run


@pytest.fixture
def searched(make: Make) -> Run:
    """A run of two serial networks and a parallel one, of which the last is best."""
    run = make("searched")
    journal = Journal(run.folder / JOURNAL, run.header())
    journal.append(trial(0, START, 0.1))
    journal.append(trial(1, BETTER, 0.2, parent_id=0, parent_code=START, iterations=700))
    journal.append(trial(2, BETTER[:-1] + "1", 0.3, phase="parallel", parent_id=1, parent_code=BETTER))
    for number in range(3):
        folder = run.folder / "trials" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / WEIGHTS).write_text(f"weights of {number}")
    return run


def test_both_phases_unless_one_is_named_or_has_no_settings(config: SearchConfig) -> None:
    assert phases_of(config, None) == ["serial", "parallel"]
    assert phases_of(config, "parallel") == ["parallel"]
    assert phases_of(replace(config, parallel=None), None) == ["serial"]


def test_the_best_serial_network_is_adopted_with_its_weights(make: Make, searched: Run) -> None:
    run = make(start=BETTER)
    adopted = adopt(run, searched.folder)
    assert (adopted.trial_id, adopted.code, adopted.mean_ap, adopted.iterations) == (0, BETTER, 0.2, 700)
    assert adopted.parent_id is None and adopted.phase == "serial"
    assert (run.folder / "trials" / "0000" / WEIGHTS).read_text() == "weights of 1"
    assert run.trials() == [adopted] == [adopt(run, searched.folder)]  # not twice
    assert adopted.macs == run.price(decode(BETTER)).macs  # reckoned here, not copied


def test_the_serial_network_under_a_parallel_search_is_adopted(make: Make) -> None:
    run = make("parallel")
    journal = Journal(run.folder / JOURNAL, run.header())
    journal.append(trial(0, START, 0.1, phase="parallel"))
    journal.append(trial(1, START[:-1] + "1", 0.3, phase="parallel", parent_id=0, parent_code=START))
    (run.folder / "trials" / "0000").mkdir(parents=True)
    (run.folder / "trials" / "0000" / WEIGHTS).write_text("weights of 0")
    adopted = adopt(make(), run.folder)
    assert (adopted.code, adopted.phase) == (START, "serial")


def test_what_cannot_be_adopted(make: Make, searched: Run, config: SearchConfig, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=f"another detector: give its code, {BETTER}"):
        adopt(make(detector=replace(config.detector, neck_channels=16)), searched.folder)
    with pytest.raises(InvalidConfig, match="another size"):
        adopt(make(input_height=96), searched.folder)
    (searched.folder / "trials" / "0001" / WEIGHTS).unlink()
    with pytest.raises(RunError, match=r"0001/weights.safetensors is missing"):
        adopt(make(), searched.folder)
    with pytest.raises(RunError, match="is no run folder"):
        best_serial(tmp_path / "nowhere")
    empty = make("empty")
    Journal(empty.folder / JOURNAL, empty.header())
    with pytest.raises(RunError, match="no validated serial network"):
        best_serial(empty.folder)


def test_what_is_a_run_and_what_a_code(
    searched: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_named(str(searched.folder)) == searched.folder
    assert run_named("runs/forgotten") == Path("runs/forgotten")  # so that the error is about a run
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    assert run_named("empty") == Path("empty")
    assert run_named(BETTER) is None and run_named("b16_11-2x") is None


def test_a_start_outside_of_the_table_says_what_to_do(
    make: Make, config: SearchConfig, tmp_path: Path
) -> None:
    table = write_table(tmp_path / "table", config, lambda load: 0.1)
    with pytest.raises(InvalidConfig, match=r"unmeasured workload stem-64.*: profile a configuration whose"):
        check(make(start="r_11-2-2-2", table=table), False, ["parallel"], this_start=True)


def test_the_start_that_was_asked_for_is_not_exchanged(make: Make) -> None:
    tight = Budget(macs=2.5e8)
    check(make(budget=tight), False, ["serial"])  # by itself a smaller one is taken
    with pytest.raises(InvalidConfig, match=f"cannot start from {START[:15]}: macs"):
        check(make(budget=tight), False, ["serial"], this_start=True)
    deep = "b16_1-1-1-1-1-1-1-222"
    with pytest.raises(InvalidConfig, match=f"cannot start from {deep}: stages is 8, outside 4 to 5"):
        check(make(start=deep), False, ["serial"], this_start=True)
    check(make(start=deep), False, ["parallel"], this_start=True)  # sub-networks stand on any network


@pytest.mark.parametrize("phases", [["serial"], ["parallel"]])
def test_a_network_with_sub_networks_is_no_start(make: Make, phases: Any) -> None:
    with pytest.raises(InvalidConfig, match="sub-networks already, give the serial network"):
        check(make(start="b16_11-21-21-21_0-1-0-0"), False, phases)


def test_a_parallel_phase_needs_its_settings_and_its_rows(
    make: Make, config: SearchConfig, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfig, match="no key parallel"):
        check(make(parallel=None), False, ["parallel"])
    old = write_table(tmp_path / "old", config, lambda load: None if isinstance(load, Connection) else 0.1)
    check(make(table=old), False, ["serial"])
    with pytest.raises(InvalidConfig, match=r"no connections of sub-networks.*profile again"):
        check(make(table=old), False, ["serial", "parallel"])
    new = write_table(tmp_path / "new", config, lambda load: 0.1)
    check(make(table=new), False, ["serial", "parallel"])
