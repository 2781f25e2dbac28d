from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from doubles import install_cuda
from doubles.cuda import ANSWERS, CudaRuntime
from doubles.gpu import Gpu, cudaError_t
from doubles_nvml import machine, uuid_of

from profilers.cuda import CudaDevice, open_device
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.nvml import GpuDevice

TWO = (("Tesla T4", (7, 5)), ("NVIDIA Double 86", (8, 6)))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return install_cuda(monkeypatch)


@pytest.fixture
def device(gpu: Gpu) -> Iterator[CudaDevice]:
    with CudaDevice() as opened:
        yield opened


def doing(gpu: Gpu, device: CudaDevice, cost_ms: float, done: list[float]) -> None:
    """Put work on the stream that takes so long and leaves a trace when it is done."""
    gpu.enqueue(gpu.stream(device.stream), cost_ms, lambda: done.append(cost_ms))


class TestOpening:
    def test_first_device_is_cudas_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = install_cuda(monkeypatch, Gpu(devices=TWO))
        device = CudaDevice()
        assert (device.name, device.compute_capability, device.uuid) == ("Tesla T4", "7.5", gpu.uuid(0))
        assert (device.cuda_driver, device.cuda_runtime, gpu.current) == ("13.0", "13.0", 0)

    def test_device_is_found_by_its_uuid(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = install_cuda(monkeypatch, Gpu(devices=TWO))
        assert CudaDevice(gpu.uuid(1)).name == "NVIDIA Double 86"
        assert gpu.current == 1

    def test_an_instance_is_found_though_cuda_calls_it_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = install_cuda(monkeypatch, Gpu(devices=TWO))
        assert CudaDevice(gpu.uuid(1).replace("GPU-", "MIG-")).name == "NVIDIA Double 86"

    def test_absent_device_lists_what_is_present(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = install_cuda(monkeypatch, Gpu(devices=TWO))
        with pytest.raises(BackendUnavailable, match=r"Tesla T4, NVIDIA Double 86\).*CUDA_VISIBLE_DEVICES"):
            CudaDevice(gpu.uuid(7))

    def test_gpu_without_uuid_is_not_guessed(self, gpu: Gpu) -> None:
        unnamed = GpuDevice(3, "Tesla T4", "hash", 1, "7.5", "580.1", uuid=None)
        with pytest.raises(BackendUnavailable, match="no UUID of Tesla T4"):
            open_device(unnamed)
        assert open_device(None).uuid == gpu.uuid(0)

    @pytest.mark.parametrize(
        ("driver", "capability", "command"),
        [
            (None, "8.6", r"'cuda-bindings==13\.\*' \(driver 580 and newer\)"),
            ("13.1", "8.6", r"'cuda-bindings==13\.\*'$"),
            ("12.4", "8.6", r"'cuda-bindings==12\.\*'$"),
            ("13.0", "7.0", r"'cuda-bindings==12\.\*'$"),
        ],
    )
    def test_missing_package_names_the_one_that_fits(
        self, monkeypatch: pytest.MonkeyPatch, driver: str | None, capability: str, command: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "cuda.bindings", None)
        monkeypatch.setattr("profilers.cuda.cuda_driver_version", lambda: driver)
        monkeypatch.setattr(
            "profilers.cuda.devices", lambda: [SimpleNamespace(compute_capability=capability)]
        )
        with pytest.raises(BackendUnavailable, match=f"cuda-bindings is missing: pip install {command}"):
            CudaDevice()

    @pytest.mark.parametrize(
        ("driver", "advice"),
        [(None, "install the NVIDIA driver"), ("12.4", r"cuda-bindings==12\.\*"), ("13.0", "nvidia-smi")],
    )
    def test_no_driver_or_an_old_one(
        self, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, driver: str | None, advice: str
    ) -> None:
        gpu.failing["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
        monkeypatch.setattr("profilers.cuda.cuda_driver_version", lambda: driver)
        with pytest.raises(
            BackendUnavailable, match=f"no CUDA device .cudaErrorInsufficientDriver.: .*{advice}"
        ):
            CudaDevice()

    def test_device_that_another_process_holds(self, gpu: Gpu) -> None:
        gpu.failing["cudaStreamCreateWithFlags"] = cudaError_t.cudaErrorDevicesUnavailable
        with pytest.raises(BackendUnavailable, match=r"Double 86 cannot be used: .*DevicesUnavailable"):
            CudaDevice()

    def test_facts_name_no_board(self, gpu: Gpu, device: CudaDevice) -> None:
        facts = device.facts()
        assert facts["uuid_hash"] == hashlib.sha256(gpu.uuid(0).encode()).hexdigest()[:16]
        assert gpu.uuid(0) not in facts.values()
        assert (facts["device"], facts["driver_version"]) == ("NVIDIA Double 86", None)
        assert (facts["cuda_driver"], facts["cuda_runtime"]) == ("13.0", "13.0")

    def test_facts_hold_what_the_driver_was_told(
        self, device: CudaDevice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", machine())
        device.uuid = uuid_of(0)
        facts = device.facts()
        assert (facts["power_limit_w"], facts["max_sm_clock_mhz"], facts["max_memory_clock_mhz"]) == (
            300.0,
            1480,
            977,
        )
        assert (facts["mig_mode"], facts["persistence_mode"]) == ("off", "off")


class TestMemory:
    def test_what_is_copied_in_comes_out(self, device: CudaDevice) -> None:
        array = np.arange(12, dtype=np.float32).reshape(3, 4)
        address = device.malloc(array.nbytes)
        device.copy_in(array.T, address)  # not contiguous
        found = np.empty((4, 3), np.float32)
        device.copy_out(address, found)
        np.testing.assert_array_equal(found, array.T)

    def test_memory_is_counted(self, device: CudaDevice) -> None:
        free, total = device.memory_bytes()
        address = device.malloc(1000)
        assert device.memory_bytes() == (free - 1000, total)
        device.free(address)
        device.free(address)
        assert device.memory_bytes() == (free, total)

    def test_no_bytes_have_an_address(self, device: CudaDevice) -> None:
        assert device.malloc(0) != 0

    def test_too_much_is_refused_by_name(self, gpu: Gpu, device: CudaDevice) -> None:
        with pytest.raises(MeasurementFailed, match="cudaMalloc failed: cudaErrorMemoryAllocation"):
            device.malloc(gpu.total_bytes + 1)

    def test_closing_frees_everything(self, gpu: Gpu, device: CudaDevice) -> None:
        device.malloc(16)
        device.time_ms(lambda: None, samples=3, launches=1)
        device.close()
        device.close()
        assert not gpu.memory and not gpu.alive

    def test_memory_that_was_freed_breaks_the_device(self, gpu: Gpu, device: CudaDevice) -> None:
        address = device.malloc(16)
        device.free(address)
        with pytest.raises(MeasurementFailed, match="cudaStreamSynchronize failed: cudaErrorIllegalAddress"):
            device.copy_in(np.zeros(4, np.float32), address)


class TestGraphs:
    def test_captured_work_runs_when_launched(self, gpu: Gpu, device: CudaDevice) -> None:
        done: list[float] = []
        graph = device.capture(lambda: doing(gpu, device, 1.0, done))
        device.synchronize()
        assert done == []
        graph.launch()
        graph.launch()
        device.synchronize()
        assert done == [1.0, 1.0]
        graph.close()
        graph.close()
        with pytest.raises(MeasurementFailed, match="cudaGraphLaunch failed"):
            graph.launch()

    def test_refusal_leaves_the_stream_usable(self, gpu: Gpu, device: CudaDevice) -> None:
        def refuse() -> None:
            raise MeasurementFailed("not this one")

        with pytest.raises(MeasurementFailed, match="not this one"):
            device.capture(refuse)
        done: list[float] = []
        doing(gpu, device, 1.0, done)
        device.synchronize()
        assert done == [1.0]
        assert len(gpu.alive) == 1  # the stream: no graph is left

    def test_what_cannot_be_captured_is_said(self, device: CudaDevice) -> None:
        def allocate() -> None:
            device.malloc(16)

        with pytest.raises(MeasurementFailed, match="cudaMalloc failed: cudaErrorStreamCaptureUnsupported"):
            device.capture(allocate)
        device.malloc(16)

    def test_invalidated_capture_is_said(self, gpu: Gpu, device: CudaDevice) -> None:
        gpu.failing["cudaGraphInstantiate"] = cudaError_t.cudaErrorInvalidValue
        with pytest.raises(MeasurementFailed, match="cudaGraphInstantiate failed: cudaErrorInvalidValue"):
            device.capture(lambda: None)
        assert len(gpu.alive) == 1


class TestTiming:
    def test_samples_are_means_of_launches(self, gpu: Gpu, device: CudaDevice) -> None:
        done: list[float] = []
        costs = iter([1.0, 3.0, 5.0, 7.0])
        samples = device.time_ms(lambda: doing(gpu, device, next(costs), done), samples=2, launches=2)
        assert samples == pytest.approx([2.0, 6.0], rel=2e-3)
        assert len(done) == 4

    def test_events_serve_again(self, gpu: Gpu, device: CudaDevice) -> None:
        for _ in range(3):
            device.time_ms(lambda: doing(gpu, device, 1.0, []), samples=4, launches=1)
        assert len(gpu.alive) == 1 + 5


def test_the_double_has_nothing_that_the_real_module_lacks() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    double = {name for name in vars(CudaRuntime) if not name.startswith("_")}
    assert double <= set(dir(real))
    assert set(ANSWERS) <= double
    for name in ("cudaError_t", "cudaMemcpyKind", "cudaStreamCaptureMode"):
        for member in getattr(CudaRuntime, name):
            assert int(getattr(getattr(real, name), member.name)) == member
    assert real.cudaStreamNonBlocking == CudaRuntime.cudaStreamNonBlocking


def test_functions_of_the_real_module_answer_as_many() -> None:
    real = pytest.importorskip("cuda.bindings.runtime")
    answers = {
        "cudaGetDeviceCount": real.cudaGetDeviceCount(),
        "cudaDriverGetVersion": real.cudaDriverGetVersion(),
        "cudaRuntimeGetVersion": real.cudaRuntimeGetVersion(),
        "cudaMemGetInfo": real.cudaMemGetInfo(),
        "cudaGetLastError": real.cudaGetLastError(),
    }
    assert {name: len(answer) - 1 for name, answer in answers.items()} == {
        name: ANSWERS.get(name, 0) for name in answers
    }


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    try:
        device = CudaDevice()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with device:
        array = np.arange(1 << 20, dtype=np.float32)
        address, found = device.malloc(array.nbytes), np.zeros_like(array)
        device.copy_in(array, address)
        device.copy_out(address, found)
        np.testing.assert_array_equal(found, array)
        graph = device.capture(lambda: None)
        assert device.time_ms(graph.launch, samples=5, launches=3).shape == (5,)
        graph.close()
