from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_parts import chain, conv, manifest

from profilers.backends.fake import FakeBackend
from profilers.condition import Condition
from profilers.errors import InvalidTable, MeasurementFailed, TableMismatch
from profilers.interleaving import Group, Settings
from profilers.manifest import Manifest, Probe, Whole, read_manifest
from profilers.measurements import Measurements
from profilers.protocol import measure_manifest, network_groups
from profilers.table import LatencyTable

SETTINGS = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, group_networks=4, rebuilt_rows=0)
COST = {"a": 0.5, "b": 1.3, "t": 0.9}  # ms of one part on the devices below


def part(ms: float, name: str = "") -> onnx.ModelProto:
    """A part that costs this on a device that charges 0.01 ms an element of weights and nothing else."""
    model = conv(name=name)
    rest = np.zeros(round(ms * 100) - 16, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(rest, "rest"))
    return model


def device(**options: object) -> FakeBackend:
    return FakeBackend(overhead_ms=0.2, node_ms=0.0, ms_per_element=0.01, **options)  # type: ignore[arg-type]


@pytest.fixture
def space(tmp_path: Path) -> Manifest:
    parts = {key: part(ms, name=f"node of {key}") for key, ms in COST.items()}
    workloads = {
        "a": chain("a"),
        "b": chain("b"),
        "t": [
            Probe(count=1, parts=("a", "t", "b")),
            Probe(count=0, parts=("a", "a")),
            Probe(count=0, parts=("b", "b")),
        ],
        "whole": [Probe(count=2, parts=("t", "t"))],
    }
    return manifest(tmp_path / "manifest", parts, workloads)


def profile(space: Manifest, backend: FakeBackend, out: Path, settings: Settings = SETTINGS) -> LatencyTable:
    return LatencyTable.read(measure_manifest(space, backend, out, settings=settings))


def test_costs_are_exact_without_noise(space: Manifest, tmp_path: Path) -> None:
    table = profile(space, device(), tmp_path)
    assert table.failures() == {}
    assert table.costs() == pytest.approx({**COST, "whole": (0.2 + 2 * 0.9) / 2}, rel=1e-9)
    row = next(row for row in table.rows if row.key == "a")
    assert row.median_ms == pytest.approx(0.2 + 4 * 0.5)
    assert row.chain_residual == pytest.approx(0, abs=1e-9)
    assert row.coefficient_of_variation == pytest.approx(0, abs=1e-9)
    assert row.weights_bytes == 4 * round(0.5 * 100)  # of one part, not of the chain
    assert row.throttled == 0 and row.rebuild_cv is None and row.energy_mj is None


def heating(now_ms: float) -> float:
    return 1 + now_ms / 5000


def test_drift_is_divided_out(space: Manifest, tmp_path: Path) -> None:
    still = profile(space, device(), tmp_path / "still").provenance.reference_ms
    table = profile(space, device(drift=heating), tmp_path / "heating")
    ratio = table.provenance.reference_ms / still
    assert ratio > 1.05  # the device did slow down
    for key, ms in COST.items():
        assert table.costs()[key] / ratio == pytest.approx(ms, rel=0.02)


def test_without_the_reference_drift_would_show(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def constant(measurements: Measurements, positions: list[int]) -> np.ndarray:
        return np.full(len(positions), 1.0)

    monkeypatch.setattr(Measurements, "_local_ms", constant)
    monkeypatch.setattr(Measurements, "median_reference_ms", lambda measurements: 1.0)
    costs = profile(space, device(drift=heating), tmp_path).costs()
    early, late = costs["a"] / COST["a"], costs["t"] / COST["t"]
    assert abs(late / early - 1) > 0.05


def test_noise_is_within_the_interval_it_states(space: Manifest, tmp_path: Path) -> None:
    noisy = device(noise=0.05, rng=np.random.default_rng(3))
    table = profile(space, noisy, tmp_path, Settings(warmup_ms=1, min_rounds=12, max_rounds=20))
    for row in table.rows:
        if row.key in COST:
            assert row.latency_ms is not None and row.latency_ci_ms is not None
            assert abs(row.latency_ms - COST[row.key]) < 3 * row.latency_ci_ms + 0.02 * COST[row.key]


def test_failing_networks_become_failed_rows(space: Manifest, tmp_path: Path) -> None:
    table = profile(space, device(failing=["*/node of b"]), tmp_path)
    assert set(table.costs()) == {"a", "whole"}
    assert set(table.failures()) == {"b", "t"}
    assert "node of b" in table.failures()["t"] and "network a + t + b" in table.failures()["t"]


def test_reference_that_fails_is_an_error(space: Manifest, tmp_path: Path) -> None:
    with pytest.raises(MeasurementFailed):
        profile(space, device(failing=["Identity"]), tmp_path)


class Interrupted(Exception):
    pass


def stop_after(networks: int) -> Callable[[float, int], None]:
    def progress(done: float, total: int) -> None:
        if done >= networks:
            raise Interrupted

    return progress


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
from test_protocol import SETTINGS, device, profile
from profilers.manifest import read_manifest
from profilers.measurements import Measurements

bursts = 0
add_burst = Measurements.add_burst

def counted(self, engine, runs_ms):
    global bursts
    add_burst(self, engine, runs_ms)
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


def test_a_table_of_another_space_is_not_overwritten(space: Manifest, tmp_path: Path) -> None:
    profile(space, device(), tmp_path)
    document = (
        (space.folder / "manifest.json").read_text().replace('"space_hash": "space"', '"space_hash": "x"')
    )
    (space.folder / "manifest.json").write_text(document)
    with pytest.raises(TableMismatch, match="another search space"):
        profile(read_manifest(space.folder), device(), tmp_path)


def test_whole_networks_correct_the_costs(tmp_path: Path) -> None:
    """On this device a part in a chain of more than four costs 10 % less."""
    parts = {key: part(ms) for key, ms in COST.items()}
    wholes = [("a",) * n + ("b",) * m for n in (2, 4, 6) for m in (3, 5, 7)]
    space = manifest(
        tmp_path / "m",
        parts,
        {key: chain(key) for key in ("a", "b")} | {"overhead": [Probe(count=1, parts=("t",))]},
        [Whole(parts=parts, workloads=parts) for parts in wholes],
    )
    backend = device()
    load = backend.load

    def cheaper_when_long(model: onnx.ModelProto) -> object:
        session = load(model)
        if sum(node.op_type == "Conv" for node in model.graph.node) > 4:
            session._cost_ms = 0.9 * (session._cost_ms - backend.overhead_ms)
        return session

    backend.load = cheaper_when_long  # type: ignore[method-assign]
    table = profile(space, backend, tmp_path / "out")
    assert table.costs()["a"] == pytest.approx(0.9 * COST["a"], rel=0.02)
    assert table.costs()["b"] == pytest.approx(0.9 * COST["b"], rel=0.02)
    rows = {row.key: row for row in table.rows}
    assert rows["a"].latency_ms == pytest.approx(COST["a"]) and rows["overhead"].correction_ms is None
    about = table.provenance
    assert about.calibration_networks == len(wholes)
    assert about.error_of_sums == pytest.approx(1 / 0.9 - 1, rel=0.01)
    assert about.error_left_out is not None and about.error_left_out < 0.01


def hot(now_ms: float) -> Condition:
    """Throttled in one of three stretches of time."""
    reasons = ("power cap",) if int(now_ms / 40) % 3 == 0 else ()
    return Condition(sm_clock_mhz=900, temperature_c=83, throttle_reasons=reasons)


def test_throttled_runs_are_left_out_and_counted(space: Manifest, tmp_path: Path) -> None:
    slow = device(throttling=hot, drift=lambda now: 3.0 if hot(now).throttle_reasons else 1.0)
    table = profile(space, slow, tmp_path, Settings(warmup_ms=1, min_rounds=8, max_rounds=30, rebuilt_rows=0))
    assert table.costs() == pytest.approx({**COST, "whole": 1.0}, rel=0.01)
    assert all(row.throttled for row in table.rows)
    found = table.provenance.environment
    assert (found["sm_clock_mhz_min"], found["temperature_c_max"]) == (900, 83)
    assert found["throttle_reasons"] == "power cap"


def test_a_device_that_is_throttled_throughout_gives_failed_rows(space: Manifest, tmp_path: Path) -> None:
    always = device(throttling=lambda now: Condition(throttle_reasons=("hardware thermal",)))
    failures = profile(space, always, tmp_path).failures()
    assert set(failures) == {*COST, "whole"}
    assert all("were throttled" in reason for reason in failures.values())


def test_a_counter_tells_of_throttling_in_between(space: Manifest, tmp_path: Path) -> None:
    counting = device(throttling=lambda now: Condition(violation_ns=int(now)))
    assert all(
        "were throttled" in reason for reason in profile(space, counting, tmp_path).failures().values()
    )


def test_energy_of_one_run(space: Manifest, tmp_path: Path) -> None:
    watt = device(throttling=lambda now: Condition(energy_mj=int(100 * now)))  # 100 mJ a virtual ms
    table = profile(space, watt, tmp_path)
    energy = {row.key: row.energy_mj for row in table.rows}
    assert energy["a"] == pytest.approx(100 * (0.2 + 4 * COST["a"]), rel=0.01)


def test_memory_by_the_driver(space: Manifest, tmp_path: Path) -> None:
    backend = device()
    backend.throttling = lambda now: Condition(used_bytes=1000 * backend.loaded)
    assert {row.device_bytes for row in profile(space, backend, tmp_path).rows} == {1000}


def test_builds_that_differ_show(space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, rebuilt_rows=2, rebuilds=2)
    assert {row.rebuild_cv for row in profile(space, device(), tmp_path / "same", settings).rows} > {None}
    rng = np.random.default_rng(0)
    uneven = device()
    load = uneven.load

    def build(model: onnx.ModelProto) -> object:
        session = load(model)
        session._cost_ms *= 1 + 0.2 * rng.random()
        return session

    monkeypatch.setattr(uneven, "load", build)
    variations = [row.rebuild_cv for row in profile(space, uneven, tmp_path / "out", settings).rows]
    assert sum(v is not None for v in variations) == 2
    assert max(v for v in variations if v is not None) > 0.01


def test_a_network_that_finds_no_memory_beside_others_gets_it_alone(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = device()
    load, opened = small.load, []

    def bounded(model: onnx.ModelProto) -> object:
        alive = [session for session in opened if not session._closed]
        if len(alive) > 3:
            raise MeasurementFailed("out of memory")
        opened.append(load(model))
        return opened[-1]

    monkeypatch.setattr(small, "load", bounded)
    assert profile(space, small, tmp_path).costs() == pytest.approx({**COST, "whole": 1.0}, rel=1e-9)


def test_going_on_with_other_settings_is_refused(space: Manifest, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        measure_manifest(space, device(), tmp_path, settings=SETTINGS, progress=stop_after(5))
    with pytest.raises(InvalidTable, match="remove it"):
        measure_manifest(space, device(), tmp_path, settings=Settings(burst_ms=1))


def test_shared_networks_are_measured_once(space: Manifest, tmp_path: Path) -> None:
    backend = device()
    profile(space, backend, tmp_path)
    assert backend.loaded == 1 + len(space.networks()) == 1 + 8


def test_impossible_cost_is_measured_again_and_then_fails(tmp_path: Path) -> None:
    parts = {"small": part(0.3), "large": part(2.0)}
    probes = [Probe(count=0, parts=("large",)), Probe(count=1, parts=("small",))]
    space = manifest(tmp_path / "m", parts, {"odd": probes})
    backend = device(drift=lambda now: 1 + 0.01 * math.sin(now))
    table = profile(space, backend, tmp_path / "out")
    assert "negative" in table.failures()["odd"]
    assert backend.loaded == 1 + SETTINGS.attempts * 2


def test_progress_ends_at_the_total(space: Manifest, tmp_path: Path) -> None:
    told: list[tuple[float, int]] = []
    measure_manifest(space, device(), tmp_path, settings=SETTINGS, progress=lambda d, t: told.append((d, t)))
    assert told == sorted(told) and told[-1] == (8, 8)


def test_provenance(space: Manifest, tmp_path: Path) -> None:
    table = profile(space, device(), tmp_path)
    found = table.provenance
    assert (found.device, found.runtime, found.batch, found.precision) == ("fake device", "fake", 1, "fp32")
    assert (found.space_hash, found.manifest_sha256) == ("space", space.sha256)
    assert found.environment["python"]
    assert (tmp_path / table.name()).is_dir()


def test_groups_are_bounded_and_keep_workloads_whole(space: Manifest) -> None:
    pending = set(space.networks())
    grouped = list(network_groups(space, pending, SETTINGS))
    assert len(grouped) > 1 and all(len(group) <= 4 for group in grouped)
    assert sorted(network for group in grouped for network in group) == sorted(pending)
    for workload in ("a", "b"):
        own = {probe.parts for w in space.workloads if w.key == workload for probe in w.probes}
        assert sum(bool(own & set(group)) for group in grouped) == 1


def test_groups_are_bounded_in_bytes(space: Manifest) -> None:
    grouped = list(network_groups(space, set(space.networks()), Settings(group_bytes=1)))
    assert len(grouped) == 4  # one a workload: none is parted


def test_nothing_pending_makes_no_group(space: Manifest) -> None:
    assert list(network_groups(space, set(), SETTINGS)) == []


def test_groups_close_their_sessions(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    original = Group.close

    def close(group: Group) -> None:
        closed.append(len(group._sessions))
        original(group)
        assert not group._sessions

    monkeypatch.setattr(Group, "close", close)
    profile(space, device(), tmp_path)
    assert sum(closed) == len(space.networks()) and max(closed) <= SETTINGS.group_networks
