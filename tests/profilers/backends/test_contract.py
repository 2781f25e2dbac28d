"""What every backend promises, run over those that work without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import doubles
import numpy as np
import onnx
import pytest
from onnx_parts import SHAPE, chain, conv, manifest

from profilers.backends import BACKENDS, Backend, backend_by_name
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.interleaving import Settings
from profilers.protocol import measure_manifest
from profilers.reference import reference_network
from profilers.table import LatencyTable

CASES: dict[str, tuple[str, dict[str, str]]] = {
    "fake": ("fake", {}),
    "onnxruntime": ("onnxruntime", {}),
    "onnxruntime, 2 threads": ("onnxruntime", {"threads": 2}),
    "torch-cuda": ("torch-cuda", {"device": "cpu"}),
    **{
        f"{name} {version}": (name, {}) for name, versions in doubles.VERSIONS.items() for version in versions
    },
}
"""Runtime and options. TensorRT is a double that executes, with ONNX Runtime, what it was asked to build."""

QUICK = Settings(warmup_ms=1, burst_ms=1, min_rounds=2, max_rounds=3, rebuilt_rows=1, rebuilds=1)


@pytest.fixture(params=CASES)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    runtime, options = CASES[request.param]
    if runtime in doubles.VERSIONS:
        doubles.install(monkeypatch, runtime, request.param.split()[-1])
    with backend_by_name(runtime, **options) as entered:
        yield entered


class TestContract:
    def test_times_as_many_runs_as_asked(self, backend: Backend) -> None:
        session = backend.load(conv())
        samples = session.time_ms(7)
        assert samples.shape == (7,) and samples.dtype == np.float64
        assert np.all(samples > 0)
        session.close()

    def test_loads_models_in_every_form(self, backend: Backend, tmp_path: Path) -> None:
        onnx.save(conv(), tmp_path / "m.onnx")
        for model in (conv(), conv().SerializeToString(), tmp_path / "m.onnx"):
            assert backend.load(model).run({"x": np.ones(SHAPE, np.float32)})["x.out"].shape == SHAPE

    def test_runs_the_reference_network(self, backend: Backend) -> None:
        outputs = backend.load(reference_network()).run({"image": np.ones((1, 3, 192, 192), np.float32)})
        assert outputs["features"].shape == (1, 64, 24, 24) and outputs["features"].dtype == np.float32

    def test_refuses_other_inputs(self, backend: Backend) -> None:
        with pytest.raises(MeasurementFailed, match="takes inputs"):
            backend.load(conv()).run({"y": np.ones(SHAPE, np.float32)})

    def test_closed_sessions_refuse_to_run(self, backend: Backend) -> None:
        session = backend.load(conv())
        session.close()
        session.close()
        with pytest.raises(MeasurementFailed, match="closed"):
            session.time_ms(1)

    def test_memory_is_known_or_none(self, backend: Backend) -> None:
        session = backend.load(conv())
        assert session.weights_bytes in (None, 4 * 4 * 4)
        assert session.activation_bytes is None or session.activation_bytes > 0
        assert session.note is None or session.note.strip()

    def test_tells_its_condition(self, backend: Backend) -> None:
        assert backend.condition().temperature_c is None or backend.condition().temperature_c > 0

    def test_profiles_a_manifest(self, backend: Backend, tmp_path: Path) -> None:
        document = manifest(tmp_path / "m", {"b": conv()}, {"b": chain("b", (1, 2))})
        table = LatencyTable.read(measure_manifest(document, backend, tmp_path, settings=QUICK))
        assert table.failures() == {} and set(table.costs()) == {"b"}
        assert table.rows[0].rebuild_cv is not None
        assert measure_manifest(document, backend, tmp_path, settings=QUICK).name == table.name()

    def test_describes_itself(self, backend: Backend) -> None:
        facts = backend.describe()
        assert {"device", "runtime", "runtime_version", "threads"} <= facts.keys()
        assert facts["device"] and facts["runtime"]


@pytest.mark.parametrize("name", BACKENDS)
def test_constructing_does_not_wake_anything(name: str) -> None:
    assert backend_by_name(name).name == name


def test_unknown_backend_lists_the_known_ones() -> None:
    with pytest.raises(BackendUnavailable, match=", ".join(BACKENDS)):
        backend_by_name("abacus")


def test_unknown_option_is_named() -> None:
    with pytest.raises(BackendUnavailable, match="'beads'"):
        backend_by_name("onnxruntime", beads=3)
