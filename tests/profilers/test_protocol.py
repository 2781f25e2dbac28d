from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_parts import chain, conv, manifest

from profilers.backends.fake import FakeBackend
from profilers.errors import InvalidTable, MeasurementFailed
from profilers.interleaving import Group, Reference, Settings
from profilers.manifest import Manifest, Probe
from profilers.protocol import measure_manifest, measure_model, network_groups
from profilers.table import LatencyTable

SETTINGS = Settings(warmup_ms=1, min_rounds=4, max_rounds=8, group_networks=4)
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
    assert row.memory_bytes is not None and row.memory_bytes > 0


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
    def constant(reference: Reference, positions: list[int]) -> np.ndarray:
        return np.full(len(positions), 1.0)

    monkeypatch.setattr(Reference, "local_ms", constant)
    monkeypatch.setattr("profilers.measurements.Measurements.reference_ms", 1.0)
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
    assert backend.loaded == SETTINGS.attempts * (1 + 2)


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


def test_one_model_against_a_stored_reference() -> None:
    now = measure_model(device(), part(0.5), settings=SETTINGS)
    assert now.drift == 1 and now.latency_ms == pytest.approx(0.7) == now.raw.median_ms
    slow = measure_model(
        device(drift=lambda _: 1.5), part(0.5), reference_ms=now.reference_ms, settings=SETTINGS
    )
    assert slow.drift == pytest.approx(1.5)
    assert slow.raw.median_ms == pytest.approx(0.7 * 1.5)
    assert slow.latency_ms == pytest.approx(0.7) == slow.normalised.median_ms


def test_one_model_that_fails_is_an_error() -> None:
    with pytest.raises(MeasurementFailed, match="refuses"):
        measure_model(device(failing=["bad"]), part(0.5, name="bad"), settings=SETTINGS)


def test_groups_close_their_sessions(
    space: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    original = Group.close

    def close(group: Group[object]) -> None:
        closed.append(len(group._sessions))
        original(group)
        assert not group._sessions

    monkeypatch.setattr(Group, "close", close)
    profile(space, device(), tmp_path)
    assert sum(closed) == len(space.networks()) and max(closed) <= SETTINGS.group_networks
