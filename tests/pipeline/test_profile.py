"""Which runtime is chosen, and from what the calibration and the held-out detectors are drawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from profilers.backends.fake import FakeBackend
from profilers.errors import BackendUnavailable
from profilers.nvml import GpuDevice
from spnas_hw.config import load_search
from spnas_hw.pipeline import profile

GPU = GpuDevice(0, "Tesla V100", "hash", 16 << 30, "7.0", "580.1", "GPU-1")


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with a GPU, on which only the runtimes in `works` do."""
    machine = SimpleNamespace(works={"onnxruntime-cuda", "torch-cuda"}, asked=[])

    class Backend(FakeBackend):
        def __enter__(self) -> FakeBackend:
            machine.asked.append(self.name)
            if self.name not in machine.works:
                raise BackendUnavailable(f"{self.name} is missing")
            return self

    def by_name(name: str, **options: object) -> FakeBackend:
        found = Backend()
        found.name = name
        found.options = options  # type: ignore[attr-defined]
        return found

    monkeypatch.setattr(profile, "backend_by_name", by_name)
    monkeypatch.setattr(profile, "find_device", lambda word: GPU)
    return machine


def test_without_a_gpu_it_is_the_cpu(runtimes: SimpleNamespace) -> None:
    runtimes.works = {"onnxruntime"}
    assert profile.backend(None, None, None, None).name == "onnxruntime"


def test_with_a_gpu_the_first_that_works(runtimes: SimpleNamespace) -> None:
    found = profile.backend(None, "V100", None, None)
    assert found.name == "onnxruntime-cuda" and runtimes.asked == [
        "tensorrt",
        "tensorrt-rtx",
        "onnxruntime-cuda",
    ]


def test_what_was_asked_for_is_not_replaced(runtimes: SimpleNamespace) -> None:
    with pytest.raises(BackendUnavailable, match=r"^tensorrt is missing$"):
        profile.backend("tensorrt", "V100", None, None)
    assert runtimes.asked == ["tensorrt"]


def test_when_nothing_works_every_reason_is_told(runtimes: SimpleNamespace) -> None:
    runtimes.works = set()
    with pytest.raises(BackendUnavailable) as caught:
        profile.backend(None, "V100", None, None)
    assert "Tesla V100" in str(caught.value)
    assert all(f"{name} is missing" in str(caught.value) for name in profile.GPU_RUNTIMES)


def test_what_is_built_is_kept_for_runtimes_that_build(runtimes: SimpleNamespace) -> None:
    runtimes.works = {"tensorrt", "torch-cuda"}
    options = profile.backend(None, "V100", None, None).options  # type: ignore[attr-defined]
    assert options["gpu"] is GPU and options["cache"] == Path("build/engines/tensorrt")
    assert profile.backend("torch-cuda", "V100", None, None).options["cache"] is None  # type: ignore[attr-defined]


def test_held_out_detectors_are_held_out() -> None:
    config = load_search("demo")
    used = profile.calibration_architectures(config, 40)
    assert used == profile.calibration_architectures(config, 40) and len(set(used)) == 40
    assert profile.calibration_architectures(config, 12) == used[:12]
    chosen = profile.distinct_samples(config.space, 200, np.random.default_rng(0), without=used)
    assert len(set(chosen)) == 200 and not set(chosen) & set(used)
    assert all(not config.space.violations(architecture) for architecture in chosen)
