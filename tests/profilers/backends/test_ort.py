from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx_parts import SHAPE, conv

from profilers.backends.ort import OrtCpuBackend, OrtCudaBackend, OrtTensorrtBackend
from profilers.errors import BackendUnavailable, MeasurementFailed

ONES = {"x": np.ones(SHAPE, np.float32)}
pins = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot pin")


def test_computes_the_convolution() -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)[..., 0, 0]
    with OrtCpuBackend() as backend:
        found = backend.load(conv()).run({"x": x})["x.out"]
    np.testing.assert_allclose(
        found, np.maximum(np.einsum("oi,bihw->bohw", weight, x), 0), rtol=1e-4, atol=1e-5
    )


def test_invalid_model_fails_with_the_reason_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    broken = conv()
    broken.graph.node[0].op_type = "Konv"
    with OrtCpuBackend() as backend, pytest.raises(MeasurementFailed, match="Konv") as caught:
        backend.load(broken)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_missing_runtime_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for backend, package in (
        (OrtCpuBackend(), "onnxruntime"),
        (OrtCudaBackend(), "onnxruntime-gpu"),
        (OrtTensorrtBackend(), "onnxruntime-gpu"),
    ):
        with pytest.raises(BackendUnavailable, match=f"pip install {package}$"), backend:
            pass


@pytest.mark.parametrize("backend", [OrtCpuBackend(), OrtCudaBackend(), OrtTensorrtBackend()])
def test_is_used_inside_with_only(backend: OrtCpuBackend | OrtCudaBackend) -> None:
    for use in (lambda: backend.load(conv()), backend.describe):
        with pytest.raises(BackendUnavailable, match="with"):
            use()


def test_threads_must_be_positive() -> None:
    with pytest.raises(BackendUnavailable, match="threads is 0"), OrtCpuBackend(threads=0):
        pass


def test_runs_on_which_the_clock_stepped_back_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = iter([1_000_000, 2_000_000, 1_500_000, 3_500_000])
    monkeypatch.setattr("profilers.backends.ort.clock_for", lambda threads: ("broken", lambda: next(stamps)))
    with OrtCpuBackend() as backend:
        assert backend.load(conv()).time_ms(3).tolist() == [1.0, 2.0]


@pins
class TestPinning:
    @pytest.fixture(autouse=True)
    def _restored(self) -> Iterator[None]:
        allowed = os.sched_getaffinity(0)
        yield
        assert os.sched_getaffinity(0) == allowed

    def test_one_thread_is_pinned_until_the_end(self) -> None:
        allowed = os.sched_getaffinity(0)
        with OrtCpuBackend() as backend:
            assert os.sched_getaffinity(0) == {max(allowed)}
            assert backend.describe()["pinned"] == "yes"
            assert backend.load(conv()).run(ONES)
        assert os.sched_getaffinity(0) == allowed

    def test_an_error_unpins_as_well(self) -> None:
        with pytest.raises(ZeroDivisionError), OrtCpuBackend():
            _ = 1 / 0

    def test_not_pinned_when_not_wanted(self) -> None:
        allowed = os.sched_getaffinity(0)
        with OrtCpuBackend(pin=False) as backend:
            assert os.sched_getaffinity(0) == allowed
            assert backend.describe()["pinned"] == "no"

    def test_more_threads_than_processors_are_not_pinned(self) -> None:
        allowed = os.sched_getaffinity(0)
        with OrtCpuBackend(threads=len(allowed) + 1) as backend:
            assert os.sched_getaffinity(0) == allowed
            assert backend.describe()["pinned"] == "no"

    @pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are not listed")
    def test_every_thread_has_a_processor_of_its_own(self) -> None:
        def affinities() -> dict[str, set[int]]:
            return {
                task.name: os.sched_getaffinity(int(task.name)) for task in Path("/proc/self/task").iterdir()
            }

        processors = sorted(os.sched_getaffinity(0), reverse=True)
        if len(processors) < 2:
            pytest.skip("one processor")
        with OrtCpuBackend(threads=2) as backend:
            before = affinities()
            session = backend.load(conv())
            assert os.sched_getaffinity(0) == {processors[0]}
            made: list[set[int]] = []
            for _ in range(1000):  # a thread moves when it begins, which may be a little later
                made = [found for task, found in affinities().items() if task not in before]
                if made == [{processors[1]}]:
                    break
                time.sleep(0.005)
            assert made == [{processors[1]}]
            session.close()
