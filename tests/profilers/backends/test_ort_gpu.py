from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from doubles_nvml import machine, uuid_of
from onnx import helper
from onnx_parts import SHAPE, conv

from profilers.backends.ort import OrtCpuBackend, OrtCudaBackend, OrtTensorrtBackend
from profilers.condition import Condition
from profilers.cuda_order import CudaGpu
from profilers.errors import BackendUnavailable, MeasurementFailed
from profilers.half import half_precision
from profilers.nvml import uuid_hash

ONES = {"x": np.ones(SHAPE, np.float32)}


class FakeValue:
    """An OrtValue that knows where it lies."""

    def __init__(self, array: np.ndarray, *place: Any) -> None:
        self.array, self.place = array.copy(), place

    def update_inplace(self, array: np.ndarray) -> None:
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        return self.array


class FakeOrt(SimpleNamespace):
    """What the backends use of onnxruntime-gpu; a session adds 1 to its input.

    `refuse_graphs`: sessions with a CUDA graph do not start. `starts`: providers that do.
    `elsewhere`: (provider, operator) of nodes that the wanted provider does not run.
    """

    def __init__(self, *providers: str) -> None:
        super().__init__(
            __version__="1.99", cuda_version="12.8", present=[*providers, "CPUExecutionProvider"]
        )
        self.starts = self.present
        self.refuse_graphs = False
        self.elsewhere: list[tuple[str, str]] = []
        self.sessions: list[SimpleNamespace] = []
        self.ExecutionMode = SimpleNamespace(ORT_SEQUENTIAL=0)
        self.GraphOptimizationLevel = SimpleNamespace(ORT_ENABLE_ALL=99)
        self.OrtValue = SimpleNamespace(
            ortvalue_from_numpy=FakeValue,
            ortvalue_from_shape_and_type=lambda shape, dtype, *place: FakeValue(
                np.zeros(shape, helper.tensor_dtype_to_np_dtype(dtype)), *place
            ),
        )

    def get_available_providers(self) -> list[str]:
        return self.present

    def preload_dlls(self) -> None:
        print("Failed to load something")

    def SessionOptions(self) -> SimpleNamespace:
        return SimpleNamespace(add_session_config_entry=lambda key, value: None)

    def InferenceSession(self, content: bytes, options: Any, providers: Any, enable_fallback: int) -> Any:
        assert enable_fallback == 0
        graphs = [value for _, chosen in providers for key, value in chosen.items() if "cuda_graph" in key]
        if self.refuse_graphs and "1" in graphs:
            raise RuntimeError("graph capture: not all nodes are on the GPU\nat line 7")
        session = SimpleNamespace(providers=providers, bound={}, runs=0)

        def run(binding: Any) -> None:
            session.runs += 1
            for name, value in session.bound.items():
                if name.endswith(".out"):
                    value.array[...] = session.bound["x"].array + 1

        def nodes(name: str, kind: str) -> SimpleNamespace:
            return SimpleNamespace(ep_name=name, get_nodes=lambda: [SimpleNamespace(op_type=kind)])

        session.get_providers = lambda: (
            [n for n, _ in providers if n in self.starts] + ["CPUExecutionProvider"]
        )
        session.get_provider_graph_assignment_info = lambda: [
            nodes(providers[0][0], "Conv"),
            *(nodes(*where) for where in self.elsewhere),
        ]
        session.run_with_iobinding = run
        session.io_binding = lambda: SimpleNamespace(
            bind_ortvalue_input=session.bound.__setitem__,
            bind_ortvalue_output=session.bound.__setitem__,
            synchronize_outputs=lambda: None,
        )
        self.sessions.append(session)
        return session


class FakeMonitor:
    def __init__(self, device_uuid: str | None) -> None:
        self.device_uuid, self.closed = device_uuid, False
        monitors.append(self)

    def condition(self) -> Condition:
        return Condition(temperature_c=40)

    def close(self) -> None:
        self.closed = True


monitors: list[FakeMonitor] = []


class TestOnAGpuThatIsNotHere:
    @pytest.fixture
    def ort(self, monkeypatch: pytest.MonkeyPatch) -> FakeOrt:
        found = FakeOrt("TensorrtExecutionProvider", "CUDAExecutionProvider")
        monkeypatch.setitem(sys.modules, "onnxruntime", found)
        device = CudaGpu(2, "Test GPU", uuid_of(0), "8.9")
        monkeypatch.setattr("profilers.backends.ort.cuda_device", lambda gpu: device)
        monkeypatch.setattr("profilers.backends.ort.Monitor", FakeMonitor)
        monkeypatch.setitem(sys.modules, "pynvml", machine())
        return found

    def test_cuda_options_say_everything_that_moves_the_time(self, ort: FakeOrt) -> None:
        with OrtCudaBackend() as backend:
            backend.load(conv())
        ((name, options),) = ort.sessions[0].providers
        assert name == "CUDAExecutionProvider"
        assert (options["device_id"], options["use_tf32"], options["enable_cuda_graph"]) == ("2", "0", "1")
        assert {value.place for value in ort.sessions[0].bound.values()} == {("cuda", 2)}

    def test_tensorrt_comes_before_cuda(self, ort: FakeOrt) -> None:
        with OrtTensorrtBackend() as backend:
            backend.load(conv())
        (first, options), (second, _) = ort.sessions[0].providers
        assert (first, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
        assert (options["device_id"], options["trt_cuda_graph_enable"]) == ("2", "1")
        assert not any("cache" in option for option in options)

    def test_the_cache_is_one_folder_for_engines_and_timings(self, ort: FakeOrt, tmp_path: Path) -> None:
        with OrtTensorrtBackend(cache=tmp_path / "new") as backend:
            backend.load(conv())
        options = ort.sessions[0].providers[0][1]
        for kind in ("engine", "timing"):
            assert options[f"trt_{kind}_cache_enable"] == "1"
            assert options[f"trt_{kind}_cache_path"] == str(tmp_path / "new")
        assert (tmp_path / "new").is_dir()

    def test_engines_of_other_networks_have_other_names(self, ort: FakeOrt, tmp_path: Path) -> None:
        """All graphs have the same name and the same tensors: only the weights differ."""
        models = [conv(), conv(seed=1), conv().SerializeToString(), conv()]
        onnx.save(conv(seed=1), tmp_path / "m.onnx")
        with OrtTensorrtBackend(cache=tmp_path) as backend:
            for model in (*models, tmp_path / "m.onnx"):
                backend.load(model)
        prefixes = [session.providers[0][1]["trt_engine_cache_prefix"] for session in ort.sessions]
        assert prefixes[0] == prefixes[2] == prefixes[3] != prefixes[1] == prefixes[4]
        assert all(prefix.isalnum() for prefix in prefixes)

    @pytest.mark.parametrize(("model", "flag"), [(conv(), "0"), (half_precision(conv()), "1")])
    def test_fp16_is_as_the_graph_says(self, ort: FakeOrt, model: onnx.ModelProto, flag: str) -> None:
        with OrtTensorrtBackend() as backend:
            backend.load(model)
        assert ort.sessions[0].providers[0][1]["trt_fp16_enable"] == flag

    @pytest.mark.parametrize("kind", [OrtCudaBackend, OrtTensorrtBackend])
    def test_what_cannot_be_captured_runs_without_a_graph_and_says_so(self, ort: FakeOrt, kind: Any) -> None:
        ort.refuse_graphs = True
        ort.elsewhere = [("CPUExecutionProvider", "NonZero"), ("CPUExecutionProvider", "NonZero")]
        with kind() as backend:
            session = backend.load(conv())
        assert session.note is not None and "\n" not in session.note
        assert "no CUDA graph" in session.note and "not all nodes" in session.note
        assert "2 NonZero on CPUExecutionProvider" in session.note

    def test_everything_on_the_gpu_needs_no_note(self, ort: FakeOrt) -> None:
        with OrtCudaBackend() as backend:
            assert backend.load(conv()).note is None

    def test_the_cpu_never_steps_in_silently(self, ort: FakeOrt) -> None:
        ort.starts = []
        with OrtCudaBackend() as backend, pytest.raises(BackendUnavailable, match="would use CPUExecution"):
            backend.load(conv())

    def test_an_absent_provider_lists_the_present_ones(
        self, ort: FakeOrt, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", FakeOrt("CUDAExecutionProvider"))
        reason = r"no TensorrtExecutionProvider \(it has CUDAExec.*CPUExec.*pip install onnxruntime-gpu"
        with pytest.raises(BackendUnavailable, match=reason), OrtTensorrtBackend():
            pass

    def test_runs_on_memory_that_stays_where_it_is(self, ort: FakeOrt) -> None:
        with OrtCudaBackend() as backend:
            session = backend.load(conv())
            bound = dict(ort.sessions[0].bound)
            before = ort.sessions[0].runs
            assert session.time_ms(4).shape == (4,)
            assert ort.sessions[0].runs == before + 4
            assert np.array_equal(session.run(ONES)["x.out"], ONES["x"] + 1)
            assert ort.sessions[0].bound == bound
            for wrong in (np.ones((1, 4, 6, 9), np.float32), np.ones(SHAPE)):
                with pytest.raises(MeasurementFailed, match="input 'x' is float"):
                    session.run({"x": wrong})

    def test_describes_the_gpu_and_tells_its_condition(
        self, ort: FakeOrt, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with OrtCudaBackend() as backend:
            facts = backend.describe()
            assert (facts["device"], facts["runtime"]) == ("Test GPU", "onnxruntime-cuda")
            assert facts["tf32"] == "off"
            assert (facts["compute_capability"], facts["driver_version"]) == ("8.9", "580.95.05")
            assert (facts["power_limit_w"], facts["cuda_driver"], facts["cuda_runtime"]) == (
                300.0,
                "13.1",
                "12.8",
            )
            assert facts["uuid_hash"] == uuid_hash(uuid_of(0))
            assert backend.condition() == Condition(temperature_c=40)
            assert not any(uuid_of(0)[4:] in str(fact) for fact in facts.values())
        assert (monitors[-1].device_uuid, monitors[-1].closed) == (uuid_of(0), True)
        assert capfd.readouterr().out == ""
        with OrtTensorrtBackend() as tensorrt:
            monkeypatch.setattr("profilers.backends.ort.tensorrt_version", lambda: "10.4.0")
            found = tensorrt.describe()
            assert (found["runtime"], found["tensorrt"]) == ("onnxruntime-tensorrt", "10.4.0")
            assert {key: found[key] for key in ("uuid_hash", "power_limit_w")} == {
                key: facts[key] for key in ("uuid_hash", "power_limit_w")
            }


def test_this_runtime_has_no_such_provider_or_a_gpu() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is installed")
    with pytest.raises(BackendUnavailable, match=r"no CUDAExecutionProvider .*pip install onnxruntime-gpu"):
        OrtCudaBackend().__enter__()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [OrtCudaBackend, OrtTensorrtBackend])
def test_a_real_gpu_agrees_with_the_cpu(kind: Any) -> None:
    x = {"x": np.random.default_rng(0).standard_normal(SHAPE, np.float32)}
    with OrtCpuBackend() as cpu:
        wanted = cpu.load(conv()).run(x)["x.out"]
    try:
        with kind() as backend:
            session = backend.load(conv())
            np.testing.assert_allclose(session.run(x)["x.out"], wanted, rtol=1e-3, atol=1e-3)
            assert session.time_ms(5).shape == (5,)
    except BackendUnavailable as error:
        pytest.skip(str(error))
