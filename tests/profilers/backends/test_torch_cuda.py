from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from doubles_nvml import machine, uuid_of
from onnx_parts import SHAPE, conv

from profilers.backends.ort import OrtCpuBackend
from profilers.backends.torch_cuda import TorchCudaBackend
from profilers.condition import Condition
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.nvml import GpuDevice, uuid_hash
from profilers.reference import reference_network

torch = pytest.importorskip("torch")
GPU = GpuDevice(1, "Test GPU", "hash", 1 << 30, "8.9", "1", "GPU-bbbb")


def cpu(**options: Any) -> TorchCudaBackend:
    return TorchCudaBackend(device="cpu", **options)


class TestOnTheCpu:
    @pytest.mark.parametrize("channels_last", [True, False])
    def test_agrees_with_onnx_runtime(self, channels_last: bool) -> None:
        image = {"image": np.random.default_rng(0).standard_normal((1, 3, 192, 192), np.float32)}
        with OrtCpuBackend() as backend:
            wanted = backend.load(reference_network()).run(image)["features"]
        with cpu(channels_last=channels_last) as torch_backend:
            found = torch_backend.load(reference_network()).run(image)["features"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)

    def test_a_second_run_has_its_own_outputs(self) -> None:
        with cpu() as backend:
            session = backend.load(conv())
            ones = session.run({"x": np.ones(SHAPE, np.float32)})["x.out"]
            kept = ones.copy()
            session.run({"x": np.zeros(SHAPE, np.float32)})
        np.testing.assert_array_equal(ones, kept)

    def test_flags_of_torch_are_put_back(self) -> None:
        def flags() -> list[bool]:
            return [getattr(owner, name) for owner, name in owned] + [torch.is_inference_mode_enabled()]

        cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
        owned = [(cudnn, "benchmark"), (cudnn, "allow_tf32"), (matmul, "allow_tf32")]
        kept = flags()
        try:
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = False, True, True
            with pytest.raises(ZeroDivisionError), cpu():
                assert flags() == [True, False, False, True]
                _ = 1 / 0
            assert flags() == [False, True, True, False]
        finally:
            cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = kept[:3]

    def test_says_what_moves_the_time(self) -> None:
        with cpu(channels_last=False) as backend:
            facts = backend.describe()
            assert backend.condition() == Condition()
        assert (facts["tf32"], facts["channels_last"], facts["cudnn_benchmark"]) == ("off", "no", "yes")
        assert facts["runtime_version"] == torch.__version__

    def test_compiles_when_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        compiled: list[object] = []

        def compile(graph: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
            compiled.append(graph)
            return graph

        monkeypatch.setattr(torch, "compile", compile)
        with cpu() as backend:
            backend.load(conv())
        assert not compiled
        with cpu(compile=True) as backend:
            backend.load(conv())
            assert backend.describe()["compile"] == "yes"
        assert len(compiled) == 1

    def test_an_operator_it_lacks_is_named_at_load(self) -> None:
        broken = conv()
        broken.graph.node[0].op_type = "Konv"
        with cpu() as backend, pytest.raises(MeasurementFailed, match="Konv"):
            backend.load(broken)

    def test_what_torch_refuses_is_one_line_at_load(self) -> None:
        broken = conv()
        del broken.graph.initializer[0].dims[:]
        broken.graph.initializer[0].dims.extend([8, 2, 1, 1])  # for two input channels, not four
        with (
            cpu() as backend,
            pytest.raises(MeasurementFailed, match=r"does not load it: .*channels") as caught,
        ):
            backend.load(broken)
        assert "\n" not in str(caught.value)

    def test_inputs_of_another_shape_are_refused(self) -> None:
        with (
            cpu() as backend,
            pytest.raises(MeasurementFailed, match=r"float\[1, 4, 6, 8\], not float32\[1\]"),
        ):
            backend.load(conv()).run({"x": np.ones(1, np.float32)})


def test_missing_torch_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailable, match="pip install torch"), TorchCudaBackend():
        pass


def test_no_cuda_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        pytest.raises(BackendUnavailable, match=r"sees no CUDA device: pip install torch"),
        TorchCudaBackend(),
    ):
        pass


def test_unknown_device() -> None:
    with pytest.raises(BackendUnavailable, match="'tpu': choose cuda or cpu"), TorchCudaBackend(device="tpu"):
        pass


def test_is_used_inside_with_only() -> None:
    for use in (lambda: cpu().load(conv()), cpu().describe, cpu().condition):
        with pytest.raises(BackendUnavailable, match="with"):
            use()


class TestOnAGpuThatIsNotHere:
    @pytest.fixture
    def chosen(self, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        """Two GPUs, CUDA's order: bbbb, aaaa. The devices that were entered."""
        entered: list[object] = []

        @contextmanager
        def device(place: object) -> Iterator[None]:
            entered.append(place)
            yield

        uuids = ["bbbb", "aaaa"]

        def properties(place: Any) -> SimpleNamespace:
            return SimpleNamespace(uuid=uuids[place if isinstance(place, int) else place.index])

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "Test GPU")
        monkeypatch.setattr(torch.cuda, "device", device)
        monkeypatch.setattr(torch, "zeros", lambda *shape, device: torch.ones(1))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (8, 9))
        monkeypatch.setattr("profilers.backends.torch_cuda.Monitor", Monitor)
        monkeypatch.setitem(sys.modules, "pynvml", machine())
        return entered

    def test_a_gpu_is_found_by_its_uuid(self, chosen: list[object]) -> None:
        with TorchCudaBackend(GPU) as backend:
            assert backend.describe()["device"] == "Test GPU"
            assert backend.condition() == Condition(temperature_c=40)
        assert chosen == [torch.device("cuda", 0)]  # NVML says 1
        assert (Monitor.last.device_uuid, Monitor.last.closed) == ("GPU-bbbb", True)

    def test_describes_the_gpu(self, chosen: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
        named = SimpleNamespace(uuid=uuid_of(0))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: named)
        with TorchCudaBackend() as backend:
            facts = backend.describe()
        assert (facts["compute_capability"], facts["driver_version"]) == ("8.9", "580.95.05")
        assert (facts["power_limit_w"], facts["uuid_hash"]) == (300.0, uuid_hash(uuid_of(0)))
        assert not any(uuid_of(0)[4:] in str(fact) for fact in facts.values())

    def test_of_several_without_a_uuid_none_is_guessed(self, chosen: list[object]) -> None:
        unnamed = GpuDevice(1, "Unnamed", "hash", 1, "8.9", "1", None)
        with pytest.raises(BackendUnavailable, match="no UUID of Unnamed: choose it by CUDA_VISIBLE"):
            TorchCudaBackend(unnamed).__enter__()

    def test_an_instance_is_found_though_cuda_calls_it_a_gpu(self, chosen: list[object]) -> None:
        instance = GpuDevice(0, "Instance", "hash", 1, "8.9", "1", "MIG-aaaa")
        with TorchCudaBackend(instance):
            assert chosen == [torch.device("cuda", 1)]

    def test_none_is_the_first(self, chosen: list[object]) -> None:
        with TorchCudaBackend():
            pass
        assert chosen == [torch.device("cuda", 0)]

    def test_a_hidden_gpu_is_no_other_gpu(self, chosen: list[object]) -> None:
        hidden = GpuDevice(0, "Hidden", "hash", 1, "8.9", "1", "GPU-cccc")
        with pytest.raises(BackendUnavailable, match="Hidden: look at CUDA_VISIBLE_DEVICES"):
            TorchCudaBackend(hidden).__enter__()
        assert not chosen

    def test_a_build_without_kernels_for_it_is_said_at_once(
        self, chosen: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*shape: int, device: object) -> None:
            raise RuntimeError("no kernel image is available\nfor execution")

        monkeypatch.setattr(torch, "zeros", refuse)
        with pytest.raises(BackendUnavailable, match=r"does not run on Test GPU \(no kernel image") as caught:
            TorchCudaBackend(GPU).__enter__()
        assert "\n" not in str(caught.value) and not chosen


class Monitor:
    last: Monitor

    def __init__(self, device_uuid: str) -> None:
        self.device_uuid, self.closed = device_uuid, False
        Monitor.last = self

    def condition(self) -> Condition:
        return Condition(temperature_c=40)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


@pytest.mark.gpu
class TestOnAGpu:
    @pytest.fixture
    def backend(self) -> Iterator[TorchCudaBackend]:
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        with TorchCudaBackend() as entered:
            yield entered

    def test_agrees_with_the_cpu_through_a_cuda_graph(self, backend: TorchCudaBackend) -> None:
        image = {"image": np.random.default_rng(0).standard_normal((1, 3, 192, 192), np.float32)}
        session = backend.load(reference_network())
        assert session.note is None
        assert session.activation_bytes is not None and session.activation_bytes > 0
        with cpu() as on_cpu:
            wanted = on_cpu.load(reference_network()).run(image)["features"]
        for _ in range(2):
            np.testing.assert_allclose(session.run(image)["features"], wanted, rtol=1e-3, atol=1e-3)
        samples = session.time_ms(20)
        assert samples.shape == (20,) and np.all(samples > 0)

    def test_a_whole_detector_is_captured(self, backend: TorchCudaBackend) -> None:
        from real_parts import inputs_for, real_parts

        from profilers.network import compose

        parts, chain = real_parts()
        whole = compose([parts[key] for key in chain])
        session = backend.load(whole)
        assert session.note is None
        with cpu() as on_cpu:
            wanted = on_cpu.load(whole).run(inputs_for(whole))
        np.testing.assert_allclose(session.run(inputs_for(whole))["boxes"], wanted["boxes"], atol=0.1)
