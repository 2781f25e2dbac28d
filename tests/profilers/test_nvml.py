from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from profilers import nvml
from profilers.errors import BackendUnavailable


class NVMLError(Exception):
    pass


def library(names: list[str], *, fails: bool = False) -> SimpleNamespace:
    """What this project uses of pynvml, for a machine with these GPUs."""

    def init() -> None:
        if fails:
            raise NVMLError

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: b"580.1",
        nvmlDeviceGetCount=lambda: len(names),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda index: names[index],
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}",
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(total=16 << 30),
        nvmlDeviceGetCudaComputeCapability=lambda index: (7, 0),
    )


def test_devices_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(["Tesla T4", "Tesla V100-SXM2-16GB"]))
    first, second = nvml.devices()
    assert (second.name, second.compute_capability, second.memory_bytes) == (
        "Tesla V100-SXM2-16GB",
        "7.0",
        16 << 30,
    )
    assert first.driver_version == "580.1"
    assert first.uuid_hash != second.uuid_hash and "GPU" not in first.uuid_hash


def test_device_is_found_by_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(["Tesla T4", "Tesla V100-SXM2-16GB"]))
    assert nvml.find_device("v100").index == 1


@pytest.mark.parametrize("pynvml", [None, library([], fails=True), library([])])
def test_no_library_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch, pynvml: object) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    assert nvml.devices() == []
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU.*python -m profilers measure"):
        nvml.find_device("V100")


def test_absent_device_lists_what_is_present(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library(["Tesla T4"]))
    with pytest.raises(BackendUnavailable, match=r"'V100'.*Tesla T4"):
        nvml.find_device("V100")
