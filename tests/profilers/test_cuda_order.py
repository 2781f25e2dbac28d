from __future__ import annotations

import sys
import uuid
from types import SimpleNamespace

import pytest

from profilers.cuda_order import cuda_device
from profilers.errors import BackendUnavailable
from profilers.nvml import GpuDevice

SLOW, FAST = uuid.UUID(int=1), uuid.UUID(int=2)


def gpu(index: int, device_uuid: str | None) -> GpuDevice:
    return GpuDevice(index, f"GPU {index}", "hash", 1 << 30, "8.9", "1", device_uuid)


SLOW_GPU, FAST_GPU = gpu(0, f"GPU-{SLOW}"), gpu(1, f"GPU-{FAST}")


def driver(*order: uuid.UUID) -> SimpleNamespace:
    """The functions of cuda.bindings.driver that are used, on these devices."""
    return SimpleNamespace(
        cuInit=lambda flags: (0,),
        cuDeviceGetCount=lambda: (0, len(order)),
        cuDeviceGet=lambda number: (0, number),
        cuDeviceGetName=lambda length, device: (0, f"device {device}".encode().ljust(length, b"\0")),
        cuDeviceGetUuid=lambda device: (0, SimpleNamespace(bytes=order[device].bytes)),
    )


def install(monkeypatch: pytest.MonkeyPatch, found: SimpleNamespace | None) -> None:
    bindings = None if found is None else SimpleNamespace(driver=found)
    monkeypatch.setitem(sys.modules, "cuda", None if found is None else SimpleNamespace(bindings=bindings))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST, SLOW))  # CUDA: fastest first
    assert cuda_device(SLOW_GPU) == (1, "GPU 0", f"GPU-{SLOW}")
    assert cuda_device(FAST_GPU) == (0, "GPU 1", f"GPU-{FAST}")


def test_none_is_cudas_first(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST, SLOW))
    assert cuda_device(None) == (0, "device 0", f"GPU-{FAST}")


def test_a_hidden_gpu_is_no_other_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST))
    with pytest.raises(BackendUnavailable, match="does not see GPU 0: look at CUDA_VISIBLE_DEVICES"):
        cuda_device(SLOW_GPU)


def test_without_bindings_the_order_is_nvmls(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, None)
    monkeypatch.setattr("profilers.cuda_order.devices", lambda: [SLOW_GPU, FAST_GPU])
    assert cuda_device(FAST_GPU)[0] == 1
    assert cuda_device(None) == (0, "GPU 0", f"GPU-{SLOW}")


def test_without_a_driver_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> None:
        raise RuntimeError("no libcuda")

    found = driver(FAST)
    found.cuInit = refuse
    install(monkeypatch, found)
    monkeypatch.setattr("profilers.cuda_order.devices", list)
    with pytest.raises(BackendUnavailable, match="nvidia-smi"):
        cuda_device(None)
