from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_parts import chain, manifest
from protocol_parts import COST, SETTINGS, device, part, profile, small_space

from profilers.backends.fake import FakeBackend
from profilers.condition import Condition
from profilers.errors import MeasurementFailed
from profilers.interleaving import Group, Settings
from profilers.manifest import Manifest, Probe, Whole
from profilers.measurements import Measurements
from profilers.protocol import measure_manifest, network_groups


@pytest.fixture
def space(tmp_path: Path) -> Manifest:
    return small_space(tmp_path / "manifest")


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
    reasons = ("hardware thermal",) if int(now_ms / 40) % 3 == 0 else ()
    return Condition(sm_clock_mhz=900, temperature_c=83, throttle_reasons=reasons)


def test_throttled_runs_are_left_out_and_counted(space: Manifest, tmp_path: Path) -> None:
    slow = device(throttling=hot, drift=lambda now: 3.0 if hot(now).throttle_reasons else 1.0)
    table = profile(space, slow, tmp_path, Settings(warmup_ms=1, min_rounds=8, max_rounds=30, rebuilt_rows=0))
    assert table.costs() == pytest.approx({**COST, "whole": 1.0}, rel=0.01)
    assert all(row.throttled for row in table.rows)
    found = table.provenance.environment
    assert (found["sm_clock_mhz_min"], found["temperature_c_max"]) == (900, 83)
    assert found["throttle_reasons"] == "hardware thermal"


def test_a_device_at_its_power_limit_is_measured_and_says_so(space: Manifest, tmp_path: Path) -> None:
    capped = device(throttling=lambda now: Condition(throttle_reasons=("power cap",)))
    table = profile(space, capped, tmp_path)
    assert table.costs() == pytest.approx({**COST, "whole": 1.0}, rel=1e-9)
    for row in table.rows:
        assert row.throttled == 0
        assert row.note is not None and row.note.startswith("the device was at its power limit in ")
    assert table.provenance.environment["throttle_reasons"] == "power cap"


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


def test_rebuilds_see_no_cache(space: Manifest, tmp_path: Path) -> None:
    caches: list[object] = []

    class Caching(FakeBackend):
        cache: Path | None = tmp_path / "cache"

        def load(self, model: object) -> object:  # type: ignore[override]
            caches.append(self.cache)
            return super().load(model)  # type: ignore[arg-type]

    backend = Caching()
    settings = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, rebuilt_rows=2, rebuilds=2)
    profile(space, backend, tmp_path, settings)
    built = 1 + len(space.networks())
    assert caches[:built] == [tmp_path / "cache"] * built
    assert len(caches) > built and set(caches[built:]) == {None}
    assert backend.cache == tmp_path / "cache"


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
    assert len(grouped) == 4  # one a workload: none has a context that another group holds


def test_what_no_earlier_group_holds_stays_together(tmp_path: Path) -> None:
    """Both need the context `a a`; it is in one group, and the other keeps its own two."""
    parts = {key: part(1.0) for key in "abc"}
    aa = Probe(count=0, parts=("a", "a"))
    workloads = {
        key: [Probe(count=1, parts=("a", key, "a")), Probe(count=2, parts=("a", key, key, "a")), aa]
        for key in "bc"
    }
    space = manifest(tmp_path / "m", parts, workloads)
    small = Settings(group_networks=3)
    first, second = network_groups(space, set(space.networks()), small)
    assert (len(first), len(second)) == (3, 2)


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
