"""Engines are built for real, without a GPU, wherever TensorRT-RTX is installed; a double runs them."""

from __future__ import annotations

import gc
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from doubles import Installed, install
from doubles.gpu import Gpu
from doubles.tensorrt import members
from onnx import TensorProto, helper, numpy_helper
from onnx_parts import SHAPE, conv

from profilers.backends.rtx import TensorRTRtxBackend, build_engine, compute_capabilities, runtime_version
from profilers.builder import EngineBuild, logger
from profilers.errors import BackendUnavailable, EngineBuildFailed, MeasurementFailed


def model(nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], **constants: np.ndarray) -> bytes:
    """A float model with the output `y`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(proto.SerializeToString())


CONVOLUTION = model(
    [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
    {"x": [1, 3, 32, 32]},
    w=np.ones((8, 3, 3, 3), dtype=np.float32),
)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    for call in (lambda: build_engine(b"", compute_capability="8.9"), compute_capabilities, runtime_version):
        with pytest.raises(BackendUnavailable, match="pip install tensorrt-rtx-cu13"):
            call()


def test_the_module_does_not_import_its_runtime() -> None:
    code = "import sys, profilers.backends.rtx; sys.exit('tensorrt_rtx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestWithTensorRtRtx:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorrt_rtx")

    @pytest.mark.parametrize("compute_capability", ["8.6", "8.9"])
    def test_builds_without_a_word(self, compute_capability: str, capfd: pytest.CaptureFixture[str]) -> None:
        engine = build_engine(CONVOLUTION, compute_capability=compute_capability, workspace_bytes=1 << 28)
        assert isinstance(engine, bytes) and len(engine) > 1000
        assert capfd.readouterr() == ("", "")

    def test_compute_capabilities_are_versions_in_order(self) -> None:
        found = compute_capabilities()
        assert {"8.6", "8.9"} <= set(found)
        assert list(found) == sorted(found, key=float)

    def test_unknown_compute_capability_lists_the_known(self) -> None:
        with pytest.raises(
            BackendUnavailable, match=r"capability '7\.0': it builds for .*8\.6, 8\.9"
        ) as caught:
            build_engine(CONVOLUTION, compute_capability="7.0")
        assert runtime_version() in str(caught.value)

    @pytest.mark.parametrize(
        ("broken", "reason"),
        [
            (model([helper.make_node("Det", ["x"], ["y"])], {"x": [2, 4, 4]}), "operator Det"),
            (model([helper.make_node("Mine", ["x"], ["y"], domain="my")], {"x": [2]}), "operator Mine"),
            (
                model(
                    [helper.make_node("TopK", ["x", "k"], ["y", "i"], axis=0)],
                    {"x": [9000]},
                    k=np.array([4000]),
                ),
                "K exceeds the maximum value allowed",
            ),
            (b"not a model", "Failed to parse"),
        ],
    )
    def test_what_cannot_be_built_is_said_in_one_line(
        self, broken: bytes, reason: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(EngineBuildFailed, match=reason) as caught:
            build_engine(broken, compute_capability="8.9")
        assert isinstance(caught.value, MeasurementFailed)
        assert "\n" not in str(caught.value)
        assert capfd.readouterr() == ("", "")

    def test_graphs_can_be_made_of_what_is_built(self, capfd: pytest.CaptureFixture[str]) -> None:
        import tensorrt_rtx as trt

        build = EngineBuild(trt, CONVOLUTION, [trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED])
        build.config.num_compute_capabilities = 1
        assert build.config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        assert build.config.get_flag(trt.BuilderFlag.TF32)
        build.config.clear_flag(trt.BuilderFlag.TF32)
        build.config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        build.config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        assert len(build.plan()) > 1000
        assert logger(trt).errors == []
        assert capfd.readouterr() == ("", "")

    def test_the_double_has_nothing_that_the_real_module_lacks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import tensorrt_rtx as real

        double = install(monkeypatch, "tensorrt-rtx").trt
        for name, found in members(double).items():
            assert found <= set(dir(getattr(real, name))), name
        for name in ("EngineInvalidityDiagnostics", "NetworkDefinitionCreationFlag"):
            for member in getattr(double, name):
                assert int(getattr(getattr(real, name), member.name)) == member


class TestWithTheDouble:
    @pytest.fixture
    def installed(self, monkeypatch: pytest.MonkeyPatch) -> Installed:
        return install(monkeypatch, "tensorrt-rtx")

    def test_engines_are_for_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = Gpu(devices=(("NVIDIA GeForce RTX 5090", (12, 0)),))
        installed = install(monkeypatch, "tensorrt-rtx", gpu=gpu)
        with TensorRTRtxBackend() as backend:
            backend.load(conv())
        (built,) = installed.builds
        assert built.compute_capability == "SM120"
        assert (built.network_flags, built.flags) == ({"STRONGLY_TYPED"}, {"REQUIRE_USER_ALLOCATION"})

    def test_runs_what_it_built(self, installed: Installed) -> None:
        x = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
        weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)[..., 0, 0]
        with TensorRTRtxBackend() as backend:
            session = backend.load(conv())
            found = session.run({"x": x})["x.out"]
            before = installed.gpu.launches
            samples = session.time_ms(2 * session._group)
        wanted = np.maximum(np.einsum("oi,bihw->bohw", weight, x), 0)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
        assert installed.gpu.launches == before + samples.size

    def test_compilation_is_told_apart(self, installed: Installed) -> None:
        with TensorRTRtxBackend() as backend:
            session = backend.load(conv())
            assert session.note == "compiled here: context 0 ms, first run 40 ms"
            assert session.time_ms(5)[1:] == pytest.approx([0.1] * 4, abs=5e-4)

    def test_compiled_kernels_serve_the_next_process(self, installed: Installed, tmp_path: Path) -> None:
        for first_run_ms in (40, 0):
            with TensorRTRtxBackend(cache=tmp_path) as backend:
                session = backend.load(conv())
                assert session.note == f"compiled here: context 0 ms, first run {first_run_ms} ms"
                session.close()
        sha256 = hashlib.sha256(conv().SerializeToString()).hexdigest()
        (kernels,) = (tmp_path / "kernels").rglob("*.cache")
        assert kernels.relative_to(tmp_path / "kernels").parts == (
            "1.7.1.116-nvidia-double-86-8.6",
            f"{sha256}.cache",
        )
        assert json.loads((tmp_path / "layers" / f"{sha256}.json").read_text())["Layers"] == ["Conv", "Relu"]

    def test_kernels_that_do_not_fit_are_compiled_anew(self, installed: Installed, tmp_path: Path) -> None:
        with TensorRTRtxBackend(cache=tmp_path) as backend:
            backend.load(conv())
            (kernels,) = (tmp_path / "kernels").rglob("*.cache")
            kernels.write_bytes(b"of an older driver")
            assert "first run 40 ms" in str(backend.load(conv()).note)
        assert kernels.read_bytes().startswith(b"KERNELS")

    def test_networks_that_cannot_be_captured_are_enqueued(self, installed: Installed) -> None:
        installed.faults.not_capturable = True
        with TensorRTRtxBackend() as backend:
            session = backend.load(conv())
            assert session.note is not None
            assert session.note.startswith("no CUDA graph, times include enqueuing: TensorRT-RTX does not")
            assert session.time_ms(5)[1:] == pytest.approx([0.1] * 4, abs=5e-4)
        assert installed.gpu.launches == 0

    def test_networks_that_need_memory_at_run_time_are_built_for_it(self, installed: Installed) -> None:
        installed.faults.user_allocation = True
        with TensorRTRtxBackend() as backend:
            assert (backend.load(conv()).time_ms(2) > 0).all()
            plan = backend.plan(conv())
        assert [built.flags for built in installed.builds] == [{"REQUIRE_USER_ALLOCATION"}, set()] * 2
        with TensorRTRtxBackend() as elsewhere:  # where nothing is known of the plan
            assert (elsewhere.load_plan(plan, conv()).time_ms(2) > 0).all()

    def test_contexts_do_not_outlive_what_they_need(self, installed: Installed) -> None:
        with TensorRTRtxBackend() as backend:
            session = backend.load(conv())
            assert len(installed.gpu.memory) == 3  # input, output and scratch
            session.close()
            assert not installed.gpu.memory
            installed.faults.run = "out of order"
            with pytest.raises(MeasurementFailed, match="out of order"):
                backend.load(conv())
            assert not installed.gpu.memory
            gc.collect()
            assert installed.trt.double.crashes == 0

    def test_unsupported_gpu_is_refused_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = Gpu(devices=(("NVIDIA H200", (9, 0)),))
        install(monkeypatch, "tensorrt-rtx", gpu=gpu)
        with (
            pytest.raises(BackendUnavailable, match=r"NVIDIA H200, compute capability 9\.0 .*8\.9, 12\.0"),
            TensorRTRtxBackend(),
        ):
            pass
        assert not gpu.alive

    @pytest.mark.parametrize(
        ("bits", "error", "text"),
        [
            (2 | 4, BackendUnavailable, "does not run on NVIDIA Double 86: UNSUPPORTED_CC, OLD_CUDA_DRIVER"),
            (16, MeasurementFailed, "cannot run the engine: INSUFFICIENT_GPU_MEMORY"),
            (0, BackendUnavailable, "it gave no reason"),
        ],
    )
    def test_invalid_engines_say_why(
        self, installed: Installed, bits: int, error: type[Exception], text: str
    ) -> None:
        installed.faults.validity = "INVALID", bits
        with TensorRTRtxBackend() as backend, pytest.raises(error, match=text):
            backend.load(conv())

    def test_describes_itself(self, installed: Installed) -> None:
        with TensorRTRtxBackend() as backend:
            facts = backend.describe()
            assert backend.condition().sm_clock_mhz is None
        assert facts["runtime"] == "tensorrt-rtx" and facts["runtime_version"] == "1.7.1.116"
        assert (facts["typing"], facts["tf32"], facts["threads"]) == ("strong", "off", None)
        assert installed.gpu.uuid(0) not in facts.values()

    def test_is_used_inside_with_only(self) -> None:
        with pytest.raises(BackendUnavailable, match="with"):
            TensorRTRtxBackend().load(conv())


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    try:
        backend = TensorRTRtxBackend(cache=tmp_path).__enter__()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with backend:
        for _ in range(2):  # with an empty cache of kernels and a filled one
            session = backend.load(conv())
            x = np.random.default_rng(1).standard_normal(SHAPE, np.float32)
            weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)[..., 0, 0]
            wanted = np.maximum(np.einsum("oi,bihw->bohw", weight, x), 0)
            np.testing.assert_allclose(session.run({"x": x})["x.out"], wanted, rtol=1e-4, atol=1e-5)
            assert (session.time_ms(20) > 0).all()
            assert session.note is not None and "CUDA graph" not in session.note
            session.close()
        assert list((tmp_path / "kernels").rglob("*.cache"))
