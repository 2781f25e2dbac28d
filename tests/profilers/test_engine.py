from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from doubles import Installed, install, install_cuda
from onnx import TensorProto, helper
from onnx_parts import SHAPE, conv

from profilers.backends.trt import TensorRTBackend
from profilers.cuda import CudaDevice
from profilers.engine import SAMPLE_MS, _allocator, _Output
from profilers.errors import MeasurementFailed
from profilers.network import Tensor

X = np.random.default_rng(1).standard_normal(SHAPE, np.float32)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    return install(monkeypatch, "tensorrt")


@pytest.fixture
def backend(installed: Installed) -> Iterator[TensorRTBackend]:
    with TensorRTBackend() as entered:
        yield entered


def relu(x: np.ndarray) -> np.ndarray:
    """What `conv` makes of an input."""
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)[..., 0, 0]
    return np.maximum(np.einsum("oi,bihw->bohw", weight, x), 0)


def typed(node: onnx.NodeProto, inputs: dict[str, int], outputs: dict[str, int]) -> onnx.ModelProto:
    """A node on vectors of four, of these element types; the second dimension of an output is not known."""
    graph = helper.make_graph(
        [node],
        "typed",
        [helper.make_tensor_value_info(name, kind, [4]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, [1, "found"]) for name, kind in outputs.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


NON_ZERO = typed(helper.make_node("NonZero", ["x"], ["where"]), {"x": TensorProto.FLOAT}, {"where": 7})


class TestRun:
    def test_every_run_sees_its_inputs(self, backend: TensorRTBackend) -> None:
        session = backend.load(conv())
        for x in (X, -X, X):
            np.testing.assert_allclose(session.run({"x": x})["x.out"], relu(x), rtol=1e-4, atol=1e-5)

    def test_runs_are_replays_of_a_graph(self, installed: Installed, backend: TensorRTBackend) -> None:
        session = backend.load(conv())
        before = installed.gpu.launches
        session.run({"x": X})
        samples = session.time_ms(2 * session._group)
        assert installed.gpu.launches == before + 1 + samples.size
        assert session.note is None

    @pytest.mark.parametrize("x", [X.astype(np.float64), X[:, :2], X[0]])
    def test_refuses_inputs_of_another_type_or_shape(self, backend: TensorRTBackend, x: np.ndarray) -> None:
        with pytest.raises(MeasurementFailed, match=r"input 'x' is float\[1, 4, 6, 8\], not float"):
            backend.load(conv()).run({"x": x})

    @pytest.mark.parametrize("version", ["8.6", "11.4"])
    def test_outputs_have_the_types_of_the_model(self, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
        install(monkeypatch, "tensorrt", version)
        shape = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.INT64)
        model = typed(shape, {"x": TensorProto.INT64}, {"y": TensorProto.INT64})
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, [4]))
        with TensorRTBackend() as backend:
            found = backend.load(model).run({"x": np.array([1, -2, 3, 4])})["y"]
        assert found.dtype == np.int64 and found.tolist() == [1, -2, 3, 4]


class TestTime:
    def test_latency_of_a_run(self, backend: TensorRTBackend) -> None:
        session = backend.load(conv())
        assert 0.1 <= session.first_run_ms < 0.2
        samples = session.time_ms(5)
        assert samples.shape == (5,) and samples[1:] == pytest.approx([0.1] * 4, abs=5e-4)

    def test_samples_of_fast_networks_are_long_enough(
        self, installed: Installed, backend: TensorRTBackend
    ) -> None:
        installed.gpu.launch_ms = 0.0001
        installed.trt.double.node_ms = 0.00123
        session = backend.load(conv())
        before = installed.gpu.device_ms, installed.gpu.launches
        samples = session.time_ms(100)
        assert samples.shape == (100,)
        assert samples == pytest.approx([0.00246] * 100, rel=0.01)  # events alone: 0.0025 or 0.002
        runs = installed.gpu.launches - before[1]
        assert 100 <= runs < 100 + SAMPLE_MS / 0.00246 + 1
        assert installed.gpu.device_ms - before[0] == pytest.approx(runs * 0.00246, rel=0.01)
        assert session.note is None

    def test_the_step_of_the_clock_of_events_does_not_show(
        self, installed: Installed, backend: TensorRTBackend
    ) -> None:
        installed.gpu.launch_ms = 0.001
        installed.trt.double.node_ms = 0.05163
        samples = backend.load(conv()).time_ms(100)  # events alone: 0.1035, always
        assert np.percentile(samples, 25) == pytest.approx(0.10326, rel=5e-4)

    def test_networks_faster_than_their_launch_are_marked(
        self, installed: Installed, backend: TensorRTBackend
    ) -> None:
        installed.gpu.launch_ms = 0.01
        installed.trt.double.node_ms = 0.001
        note = backend.load(conv()).note
        assert note == "the host needs 0.010 ms to launch a run of 0.010 ms"


class TestWithoutGraph:
    def test_refused_capture_is_noted_and_runs_go_on(
        self, installed: Installed, backend: TensorRTBackend
    ) -> None:
        installed.faults.capture = "operation not permitted\nwhen stream is capturing"
        session = backend.load(conv())
        assert session.note == (
            "no CUDA graph, times include enqueuing: "
            "TensorRT does not enqueue it: operation not permitted when stream is capturing"
        )
        np.testing.assert_allclose(session.run({"x": X})["x.out"], relu(X), rtol=1e-4, atol=1e-5)
        assert session.time_ms(3)[1:] == pytest.approx([0.1] * 2, abs=5e-4)
        assert installed.gpu.launches == 0

    @pytest.mark.parametrize("version", ["8.6", "10.4", "11.4"])
    def test_outputs_whose_shape_depends_on_the_data(
        self, monkeypatch: pytest.MonkeyPatch, version: str
    ) -> None:
        gpu = install(monkeypatch, "tensorrt", version).gpu
        with TensorRTBackend() as backend:
            session = backend.load(NON_ZERO)
            for x in ([0, 5, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4], [0, 1, 1, 0]):
                found = session.run({"x": np.array(x, np.float32)})["where"]
                np.testing.assert_array_equal(found, [np.flatnonzero(x)])
            assert found.dtype == np.int64
            assert session.note is not None and "no CUDA graph" in session.note
            session.close()
            assert not gpu.memory

    def test_no_memory_for_such_an_output(self, installed: Installed, backend: TensorRTBackend) -> None:
        installed.gpu.total_bytes = 20  # the input takes 16
        with pytest.raises(MeasurementFailed, match="does not enqueue it: cudaMalloc failed"):
            backend.load(NON_ZERO)
        assert not installed.gpu.memory


class TestMemory:
    def test_closing_frees_everything(self, installed: Installed, backend: TensorRTBackend) -> None:
        session = backend.load(conv())
        assert len(installed.gpu.memory) == 2
        before = len(installed.gpu.alive)
        session.close()
        session.close()
        assert not installed.gpu.memory
        assert len(installed.gpu.alive) == before - 1  # the graph

    def test_sessions_may_be_closed_after_their_backend(self, installed: Installed) -> None:
        with TensorRTBackend() as backend:
            session = backend.load(conv())
        with pytest.raises(MeasurementFailed, match="closed"):
            session.time_ms(1)
        session.close()
        assert not installed.gpu.memory and not installed.gpu.alive

    def test_weights_are_the_models_where_the_engine_does_not_tell(
        self, installed: Installed, backend: TensorRTBackend
    ) -> None:
        installed.faults.engine_stat = True
        assert backend.load(conv()).weights_bytes == 64

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            ("run", "TensorRT does not enqueue it: out of order"),
            ("context", "TensorRT makes no execution context: out of order"),
            ("engine", "TensorRT cannot load its engine: out of order"),
        ],
    )
    def test_what_fails_leaves_nothing(
        self, installed: Installed, backend: TensorRTBackend, fault: str, message: str
    ) -> None:
        other = backend.load(conv())
        setattr(installed.faults, fault, "out of order")
        with pytest.raises(MeasurementFailed, match=message):
            backend.load(conv())
        other.close()
        assert not installed.gpu.memory

    def test_too_little_memory(self, installed: Installed, backend: TensorRTBackend) -> None:
        installed.gpu.total_bytes = 1000
        with pytest.raises(MeasurementFailed, match="cudaErrorMemoryAllocation"):
            backend.load(conv())
        assert not installed.gpu.memory


def test_shapes_in_host_memory_are_refused(installed: Installed, backend: TensorRTBackend) -> None:
    installed.faults.on_the_host = {"x"}
    with pytest.raises(MeasurementFailed, match="'x' decides on shapes: export with static shapes"):
        backend.load(conv())


def test_a_run_that_fails_later_gives_its_own_reason(installed: Installed, backend: TensorRTBackend) -> None:
    installed.faults.capture = "not while capturing"
    session = backend.load(conv())
    installed.faults.run = "the device is gone"
    with pytest.raises(MeasurementFailed, match="does not enqueue it: the device is gone"):
        session.time_ms(1)


@pytest.mark.parametrize("name", ["tensorrt_rtx", "tensorrt"])
def test_allocators_are_what_the_real_bindings_take(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    trt = pytest.importorskip(name)
    gpu = install_cuda(monkeypatch)
    with CudaDevice() as cuda:
        output = _Output(cuda, Tensor("y", TensorProto.FLOAT, (-1,)))
        allocator = _allocator(trt, output)
        assert isinstance(allocator, trt.IOutputAllocator)
        first, second, third = (allocator.reallocate_output_async("y", 0, n, 256, 0) for n in (8, 4, 16))
        assert first == second != 0
        assert list(gpu.memory) == [third]
        allocator.notify_shape("y", trt.Dims([4]))
        assert output.shape == (4,)
