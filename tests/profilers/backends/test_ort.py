from __future__ import annotations

import sys

import numpy as np
import pytest
from onnx_parts import SHAPE, conv

from profilers.backends.ort import OrtCpuBackend, clock_for
from profilers.errors import BackendUnavailable, MeasurementFailed


def test_computes_the_convolution() -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)[..., 0, 0]
    with OrtCpuBackend() as backend:
        found = backend.load(conv()).run({"x": x})["x.out"]
    np.testing.assert_allclose(
        found, np.maximum(np.einsum("oi,bihw->bohw", weight, x), 0), rtol=1e-4, atol=1e-5
    )


def test_invalid_model_fails_with_the_reason_in_one_line() -> None:
    broken = conv()
    broken.graph.node[0].op_type = "Konv"
    with OrtCpuBackend() as backend, pytest.raises(MeasurementFailed, match="Konv") as caught:
        backend.load(broken)
    assert "\n" not in str(caught.value)


def test_missing_runtime_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime"), OrtCpuBackend():
        pass


def test_is_used_inside_with_only() -> None:
    with pytest.raises(BackendUnavailable, match="with"):
        OrtCpuBackend().load(conv())


def test_threads_must_be_positive() -> None:
    with pytest.raises(BackendUnavailable, match="threads is 0"), OrtCpuBackend(threads=0):
        pass


def test_several_threads_are_timed_by_the_monotonic_clock() -> None:
    assert clock_for(2)[0] == "perf_counter"


def test_runs_on_which_the_clock_stepped_back_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = iter([1_000_000, 2_000_000, 1_500_000, 3_500_000])
    monkeypatch.setattr("profilers.backends.ort.clock_for", lambda threads: ("broken", lambda: next(stamps)))
    with OrtCpuBackend() as backend:
        assert backend.load(conv()).time_ms(3).tolist() == [1.0, 2.0]
