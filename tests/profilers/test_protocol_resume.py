"""Interrupted, killed, told to measure again: what is kept, and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from protocol_parts import COST, SETTINGS, Interrupted, device, profile, small_space, stop_after

from profilers.backends.fake import FakeBackend
from profilers.errors import InvalidTable, MeasurementFailed, ProfilerError, TableMismatch
from profilers.interleaving import Settings
from profilers.manifest import Manifest, read_manifest
from profilers.measurements import Measurements
from profilers.protocol import measure_manifest
from profilers.table import LatencyTable


@pytest.fixture
def space(tmp_path: Path) -> Manifest:
    return small_space(tmp_path / "manifest")


def test_interrupted_profiling_goes_on(space: Manifest, tmp_path: Path) -> None:
    total = len(space.networks())
    with pytest.raises(Interrupted):
        measure_manifest(space, device(), tmp_path, settings=SETTINGS, progress=stop_after(5))
    second = device()
    table = LatencyTable.read(measure_manifest(space, second, tmp_path, settings=SETTINGS))
    assert table.costs() == pytest.approx({**COST, "whole": 1.0}, rel=1e-9)
    assert 1 < second.loaded < 1 + total  # the reference, and fewer networks than there are
    assert not list(tmp_path.glob("*.jsonl"))


KILLED = """
import os, signal, sys
from pathlib import Path
from protocol_parts import SETTINGS, device, profile
from profilers.manifest import read_manifest
from profilers.measurements import Measurements

bursts = 0
add_burst = Measurements.add_burst

def counted(self, engine, *burst):
    global bursts
    add_burst(self, engine, *burst)
    bursts += 1
    if bursts == {bursts}:
        os.kill(os.getpid(), signal.SIGKILL)

Measurements.add_burst = counted
profile(read_manifest(Path({manifest!r})), device(), Path({out!r}))
"""


@pytest.mark.parametrize("bursts", [1, 9, 22])
def test_a_killed_process_loses_no_burst(space: Manifest, tmp_path: Path, bursts: int) -> None:
    out = tmp_path / "out"
    code = KILLED.format(bursts=bursts, manifest=str(space.folder), out=str(out))
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == -signal.SIGKILL
    log = next(out.glob("*.jsonl"))
    assert log.read_text().count("runs_ms") == bursts
    fresh = device()
    table = LatencyTable.read(measure_manifest(space, fresh, out, settings=SETTINGS))
    assert table.costs() == pytest.approx({**COST, "whole": 1.0}, rel=1e-9)


def test_a_second_run_costs_nothing(space: Manifest, tmp_path: Path) -> None:
    folder = measure_manifest(space, device(), tmp_path, settings=SETTINGS)
    before = (folder / "table.csv").stat().st_mtime_ns
    second = device()
    assert measure_manifest(space, second, tmp_path, settings=SETTINGS) == folder
    assert second.loaded == 0 and (folder / "table.csv").stat().st_mtime_ns == before
    measure_manifest(space, second, tmp_path, settings=SETTINGS, again=True)
    assert second.loaded == 1 + len(space.networks())


def test_another_version_of_the_runtime_is_measured_anew(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(space, device(), tmp_path)
    newer = device()
    monkeypatch.setattr(newer, "describe", lambda: {**device().describe(), "runtime_version": "2"})
    assert profile(space, newer, tmp_path).provenance.runtime_version == "2"


def test_a_changed_power_mode_is_another_subject(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def orin(mode: str) -> FakeBackend:
        backend = device()
        monkeypatch.setattr(backend, "describe", lambda: {**device().describe(), "nvpmodel_mode": mode})
        return backend

    with pytest.raises(Interrupted):
        measure_manifest(space, orin("0000"), tmp_path, settings=SETTINGS, progress=stop_after(5))
    with pytest.raises(InvalidTable, match=r"\(nvpmodel_mode\)"):
        profile(space, orin("0002"), tmp_path)
    profile(space, orin("0000"), tmp_path)
    assert profile(space, orin("0002"), tmp_path).provenance.environment["nvpmodel_mode"] == "0002"


def test_two_processes_do_not_measure_the_same_at_once(space: Manifest, tmp_path: Path) -> None:
    def second(done: float, total: int) -> None:
        if done:
            measure_manifest(space, device(), tmp_path, settings=SETTINGS)

    with pytest.raises(ProfilerError, match="another process is writing"):
        measure_manifest(space, device(), tmp_path, settings=SETTINGS, progress=second)
    assert profile(space, device(), tmp_path).failures() == {}


def test_a_table_of_another_space_is_not_overwritten(space: Manifest, tmp_path: Path) -> None:
    profile(space, device(), tmp_path)
    document = (
        (space.folder / "manifest.json").read_text().replace('"space_hash": "space"', '"space_hash": "x"')
    )
    (space.folder / "manifest.json").write_text(document)
    with pytest.raises(TableMismatch, match="another search space"):
        profile(read_manifest(space.folder), device(), tmp_path)


def test_a_lost_device_makes_no_table_and_the_next_process_goes_on(space: Manifest, tmp_path: Path) -> None:
    runs = iter(range(200))

    class Lost(FakeBackend):
        def run_ms(self, cost_ms: float) -> float:
            if next(runs, None) is None:
                raise MeasurementFailed("cudaErrorIllegalAddress")
            return super().run_ms(cost_ms)

    with pytest.raises(MeasurementFailed, match="no longer runs"):
        measure_manifest(space, Lost(0.2, 0.0, 0.01), tmp_path, settings=SETTINGS)
    table = profile(space, device(), tmp_path)
    assert table.failures() == {}
    assert table.costs() == pytest.approx({**COST, "whole": 1.0}, rel=1e-9)


def test_again_does_not_take_over_what_became_the_table(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Measurements, "remove", lambda measurements: None)
        profile(space, device(), tmp_path)
    assert list(tmp_path.glob("*.jsonl"))
    second = device()
    measure_manifest(space, second, tmp_path, settings=SETTINGS, again=True)
    assert second.loaded == 1 + len(space.networks())


def test_again_goes_on_where_it_was_interrupted(space: Manifest, tmp_path: Path) -> None:
    profile(space, device(), tmp_path)
    with pytest.raises(Interrupted):
        measure_manifest(space, device(), tmp_path, settings=SETTINGS, again=True, progress=stop_after(5))
    second = device()
    measure_manifest(space, second, tmp_path, settings=SETTINGS, again=True)
    assert 1 < second.loaded < 1 + len(space.networks())


def test_going_on_with_other_settings_is_refused(space: Manifest, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        measure_manifest(space, device(), tmp_path, settings=SETTINGS, progress=stop_after(5))
    with pytest.raises(InvalidTable, match="remove it"):
        measure_manifest(space, device(), tmp_path, settings=Settings(burst_ms=1))
