from __future__ import annotations

import sys
import uuid
from types import SimpleNamespace

import pytest

from profilers.cuda_order import CudaGpu, cuda_device
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
        CUdevice_attribute=SimpleNamespace(
            CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=8, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=6
        ),
        cuDeviceGetAttribute=lambda attribute, device: (0, attribute),
    )


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def install(monkeypatch: pytest.MonkeyPatch, found: SimpleNamespace | None) -> None:
    bindings = None if found is None else SimpleNamespace(driver=found)
    monkeypatch.setitem(sys.modules, "cuda", None if found is None else SimpleNamespace(bindings=bindings))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST, SLOW))  # CUDA: fastest first
    assert cuda_device(SLOW_GPU) == CudaGpu(1, "device 1", f"GPU-{SLOW}", "8.6")
    assert cuda_device(FAST_GPU) == CudaGpu(0, "device 0", f"GPU-{FAST}", "8.6")


def test_none_is_cudas_first(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST, SLOW))
    assert cuda_device(None) == CudaGpu(0, "device 0", f"GPU-{FAST}", "8.6")


def test_an_instance_is_found_and_has_cudas_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST))
    assert cuda_device(gpu(0, f"MIG-{FAST}"))[:2] == (0, "device 0")


def test_where_there_are_two_kinds_of_uuid_it_is_the_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    found = driver(SLOW)
    found.cuDeviceGetUuid_v2 = lambda device: (0, SimpleNamespace(bytes=FAST.bytes))
    install(monkeypatch, found)
    assert cuda_device(None).uuid == f"GPU-{FAST}"


def test_a_hidden_gpu_is_no_other_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, driver(FAST))
    with pytest.raises(BackendUnavailable, match="does not see GPU 0: look at CUDA_VISIBLE_DEVICES"):
        cuda_device(SLOW_GPU)


def test_without_a_driver_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> None:
        raise RuntimeError("no libcuda")

    found = driver(FAST)
    found.cuInit = refuse
    install(monkeypatch, found)
    with pytest.raises(BackendUnavailable, match="nvidia-smi"):
        cuda_device(None)


class TestWithoutBindings:
    @pytest.fixture(autouse=True)
    def _two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, None)
        monkeypatch.setattr("profilers.cuda_order.devices", lambda: [SLOW_GPU, FAST_GPU])

    @pytest.mark.parametrize("asked", [None, FAST_GPU])
    @pytest.mark.parametrize("shown", [None, "1", "0,1", "GPU-00000000"])
    def test_of_several_none_is_guessed(
        self, monkeypatch: pytest.MonkeyPatch, asked: GpuDevice | None, shown: str | None
    ) -> None:
        if shown is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        with pytest.raises(BackendUnavailable, match=r"2 GPUs, .* only cuda-bindings tell: pip install"):
            cuda_device(asked)

    def test_a_uuid_leaves_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"GPU-{FAST}")
        assert cuda_device(None) == cuda_device(FAST_GPU) == CudaGpu(0, "GPU 1", f"GPU-{FAST}", "8.9")
        with pytest.raises(BackendUnavailable, match="does not see GPU 0"):
            cuda_device(SLOW_GPU)

    @pytest.mark.parametrize("shown", [None, "0", f"GPU-{SLOW}", " gpu-00000000"])
    def test_one_is_the_one(self, monkeypatch: pytest.MonkeyPatch, shown: str | None) -> None:
        monkeypatch.setattr("profilers.cuda_order.devices", lambda: [SLOW_GPU])
        if shown is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        assert cuda_device(None) == cuda_device(SLOW_GPU) == CudaGpu(0, "GPU 0", f"GPU-{SLOW}", "8.9")

    @pytest.mark.parametrize("shown", ["", "-1", "1", "GPU-9"])
    def test_it_may_be_hidden(self, monkeypatch: pytest.MonkeyPatch, shown: str) -> None:
        monkeypatch.setattr("profilers.cuda_order.devices", lambda: [SLOW_GPU])
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
        with pytest.raises(BackendUnavailable, match="CUDA_VISIBLE_DEVICES does not hide"):
            cuda_device(None)

    def test_the_only_one_needs_no_uuid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unnamed = gpu(0, None)
        monkeypatch.setattr("profilers.cuda_order.devices", lambda: [unnamed])
        assert cuda_device(unnamed) == CudaGpu(0, "GPU 0", None, "8.9")
