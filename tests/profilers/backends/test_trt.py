"""TensorRT of four versions, each with what it has and lacks."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from doubles import VERSIONS, Installed, install
from doubles.tensorrt import members
from onnx import TensorProto, helper, numpy_helper
from onnx_parts import SHAPE, conv, model

from profilers.backends import EngineBackend
from profilers.backends.trt import TensorRTBackend
from profilers.errors import BackendUnavailable, EngineBuildFailed

X = np.random.default_rng(1).standard_normal(SHAPE, np.float32)


@pytest.fixture(params=VERSIONS["tensorrt"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> Installed:
    return install(monkeypatch, "tensorrt", version)


def half() -> onnx.ModelProto:
    """FP32 outside, FP16 inside."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["h", "h"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    return model({"x": SHAPE}, {"y": SHAPE}, nodes)


def quantized() -> onnx.ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    weights = {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8)}
    return model({"x": SHAPE}, {"y": SHAPE}, nodes, weights)


def built(installed: Installed, proto: onnx.ModelProto, **options: object) -> tuple[set[str], str | None]:
    """Builder flags that a model was built with, and the note of its session."""
    with TensorRTBackend(**options) as backend:  # type: ignore[arg-type]
        session = backend.load(proto)
    return installed.builds[-1].flags, session.note


class TestTyping:
    def test_networks_are_made_as_the_version_wants(self, installed: Installed, version: str) -> None:
        built(installed, conv())
        assert (
            installed.builds[-1].network_flags
            == {
                "8.6": {"EXPLICIT_BATCH"},
                "10.4": {"EXPLICIT_BATCH", "STRONGLY_TYPED"},
                "10.16": {"EXPLICIT_BATCH", "STRONGLY_TYPED"},
                "11.4": {"STRONGLY_TYPED"},
            }[version]
        )

    def test_fp32_is_fp32(self, installed: Installed) -> None:
        assert built(installed, conv()) == (set(), None)

    def test_engines_for_other_versions_and_devices_on_demand(
        self, installed: Installed, version: str
    ) -> None:
        proto = conv()
        options = {"version_compatible": True, "hardware": "ampere+"}
        assert built(installed, proto, **options) == ({"VERSION_COMPATIBLE"}, None)
        assert installed.builds[-1].hardware == "AMPERE_PLUS"
        with TensorRTBackend(hardware="same-compute-capability") as backend:
            assert backend.describe()["hardware"] == "same-compute-capability"
            if version in ("8.6", "10.4"):
                with pytest.raises(BackendUnavailable, match=r"choose one of ampere\+$"):
                    backend.load(proto)
            else:
                backend.load(proto)
                assert installed.builds[-1].hardware == "SAME_COMPUTE_CAPABILITY"

    def test_a_kept_engine_is_loaded_without_building(self, installed: Installed) -> None:
        proto = conv()
        with TensorRTBackend() as backend:
            assert isinstance(backend, EngineBackend)
            plan, builds = backend.plan(proto), len(installed.builds)
            session = backend.load_plan(plan, proto)
            inputs = {"x": np.ones(SHAPE, np.float32)}
            assert session.run(inputs).keys() == backend.load(proto).run(inputs).keys()
            assert len(installed.builds) == builds + 1

    def test_tf32_on_demand(self, installed: Installed) -> None:
        assert built(installed, conv(), tf32=True) == ({"TF32"}, None)

    @pytest.mark.parametrize(("proto", "flag"), [(half(), "FP16"), (quantized(), "INT8")])
    def test_weak_typing_is_told_what_is_in_the_model(
        self, installed: Installed, version: str, proto: onnx.ModelProto, flag: str
    ) -> None:
        flags, note = built(installed, proto)
        if version == "8.6":
            assert flags == {flag}
            assert note == f"weakly typed: TensorRT chose where to use {flag}"
        else:
            assert (flags, note) == (set(), None)

    @pytest.mark.parametrize("version", ["8.6"], indirect=True)
    def test_fp16_is_found_in_weights_constants_and_subgraphs(self, installed: Installed) -> None:
        constant = numpy_helper.from_array(np.ones(1, np.float16), "k")
        branch = helper.make_graph(
            [
                helper.make_node("Constant", [], ["one"], value=constant),
                helper.make_node("Cast", ["one"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["x", "wide"], ["z"]),
            ],
            "branch",
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, SHAPE)],
        )
        inside = model(
            {"x": SHAPE},
            {"y": SHAPE},
            [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)],
            {"yes": np.array(True)},
        )
        weights = model(
            {"x": SHAPE},
            {"y": SHAPE},
            [
                helper.make_node("Cast", ["w"], ["wide"], to=TensorProto.FLOAT),
                helper.make_node("Add", ["x", "wide"], ["y"]),
            ],
            {"w": np.ones(1, np.float16)},
        )
        assert built(installed, inside)[0] == built(installed, weights)[0] == {"FP16"}

    def test_describes_itself(self, installed: Installed, version: str) -> None:
        with TensorRTBackend(builder_optimization_level=5) as backend:
            facts = backend.describe()
        assert facts == {
            "device": "NVIDIA Double 86",
            "runtime": "tensorrt",
            "runtime_version": installed.trt.__version__,
            "threads": None,
            "compute_capability": "8.6",
            "driver_version": None,
            "power_limit_w": None,
            "max_sm_clock_mhz": None,
            "max_memory_clock_mhz": None,
            "mig_mode": None,
            "persistence_mode": None,
            "cuda_driver": "13.0",
            "cuda_runtime": "13.0",
            "uuid_hash": hashlib.sha256(installed.gpu.uuid(0).encode()).hexdigest()[:16],
            "typing": "weak" if version == "8.6" else "strong",
            "tf32": "off",
            "workspace_bytes": None,
            "builder_optimization_level": 5,
            "clock": "cuda events",
        }


class TestBuild:
    def test_runs_what_it_built(self, installed: Installed) -> None:
        with TensorRTBackend() as backend:
            for proto, wanted in ((half(), X + X), (quantized(), X)):
                found = backend.load(proto).run({"x": X})["y"]
                assert found.dtype == np.float32
                np.testing.assert_allclose(found, wanted, atol=0.06)
        assert installed.trt.double.plugins

    def test_options_reach_the_builder(self, installed: Installed) -> None:
        built(installed, conv(), workspace_bytes=1 << 20, builder_optimization_level=1)
        assert installed.builds[-1].pool_limits == {"WORKSPACE": 1 << 20}
        assert installed.builds[-1].builder_optimization_level == 1

    def test_operators_it_lacks_are_named(self, installed: Installed) -> None:
        installed.faults.unsupported = {"Relu", "Conv"}
        with TensorRTBackend() as backend, pytest.raises(EngineBuildFailed) as caught:
            backend.load(conv())
        message = "TensorRT cannot read the model: operator Conv, Relu: No importer for Conv."
        assert str(caught.value) == message

    def test_unreadable_model(self, installed: Installed) -> None:
        with TensorRTBackend() as backend, pytest.raises(EngineBuildFailed, match="read the model: Failed"):
            backend.plan(b"not a model")

    def test_nodes_that_do_not_build_are_named(self, installed: Installed) -> None:
        installed.faults.build = (
            "Error Code 10: (Could not find\nany implementation for node {head/conv + h}.)"
        )
        with TensorRTBackend() as backend, pytest.raises(EngineBuildFailed) as caught:
            backend.load(conv(name="head/conv"))
        assert str(caught.value) == (
            "TensorRT cannot build the network: operator Conv: Error Code 10: "
            "(Could not find any implementation for node {head/conv + h}.)"
        )

    def test_reasons_come_through_the_first_logger_of_the_process(self, installed: Installed) -> None:
        with TensorRTBackend() as first:
            first.load(conv())
        installed.faults.build = "no room"
        with TensorRTBackend() as second, pytest.raises(EngineBuildFailed, match="no room"):
            second.load(conv())

    def test_device_it_does_not_support(self, installed: Installed) -> None:
        installed.faults.start = "Target GPU SM 70 is not supported by this TensorRT release."
        with (
            TensorRTBackend() as backend,
            pytest.raises(BackendUnavailable, match=r"TensorRT \d+\..* does not start .*Target GPU SM 70"),
        ):
            backend.load(conv())


class TestCache:
    def test_nothing_is_written_without_a_folder(
        self, installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        built(installed, conv())
        assert installed.builds[-1].timing_cache is None
        assert installed.builds[-1].profiling_verbosity == "LAYER_NAMES_ONLY"
        assert list(tmp_path.iterdir()) == []

    def test_timings_of_one_build_serve_the_next(self, installed: Installed, tmp_path: Path) -> None:
        built(installed, conv(), cache=tmp_path)
        assert installed.builds[-1].timing_cache == b""
        (path,) = (tmp_path / "timing").iterdir()
        assert path.name == f"{installed.trt.__version__}-nvidia-double-86-8.6.cache"
        saved = path.read_bytes()
        built(installed, half(), cache=tmp_path)
        assert installed.builds[-1].timing_cache == saved
        assert path.read_bytes().startswith(saved) and len(path.read_bytes()) > len(saved)

    @pytest.mark.parametrize("content", [b"garbage", b"TIMING of another device"])
    def test_timings_that_do_not_fit_are_left_out(
        self, installed: Installed, tmp_path: Path, content: bytes
    ) -> None:
        installed.faults.stale_timing_cache = True
        path = tmp_path / "timing" / f"{installed.trt.__version__}-nvidia-double-86-8.6.cache"
        path.parent.mkdir()
        path.write_bytes(content)
        built(installed, conv(), cache=tmp_path)
        assert installed.builds[-1].timing_cache == b""
        assert path.read_bytes() != content

    def test_refused_timings_are_not_the_reason_of_a_later_failure(
        self, installed: Installed, tmp_path: Path
    ) -> None:
        installed.faults.stale_timing_cache = True
        built(installed, conv(), cache=tmp_path)
        installed.faults.build = "no room"
        with pytest.raises(EngineBuildFailed, match="build the network: no room"):
            built(installed, conv(), cache=tmp_path)

    def test_layers_are_kept_by_the_hash_of_the_model(self, installed: Installed, tmp_path: Path) -> None:
        proto = conv()
        built(installed, proto, cache=tmp_path)
        assert installed.builds[-1].profiling_verbosity == "DETAILED"
        (path,) = (tmp_path / "layers").iterdir()
        assert path.name == f"{hashlib.sha256(proto.SerializeToString()).hexdigest()}.json"
        assert json.loads(path.read_text()) == {"Layers": ["Conv", "Relu"]}


def test_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match="pip install tensorrt"), TensorRTBackend():
        pass


def test_is_used_inside_with_only() -> None:
    for call in (lambda b: b.load(conv()), lambda b: b.describe(), lambda b: b.condition()):
        with pytest.raises(BackendUnavailable, match="with"):
            call(TensorRTBackend())


@pytest.mark.parametrize("version", ["10.16"], indirect=True)
def test_condition_is_unknown_without_nvml(installed: Installed) -> None:
    with TensorRTBackend() as backend:
        assert backend.condition().temperature_c is None


def test_the_doubles_have_nothing_that_the_installed_tensorrt_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = pytest.importorskip("tensorrt")
    version = ".".join(real.__version__.split(".")[:2])
    if version not in VERSIONS["tensorrt"]:
        pytest.skip(f"no double of TensorRT {version}")
    for name, found in members(install(monkeypatch, "tensorrt", version).trt).items():
        assert found <= set(dir(getattr(real, name))), name


@pytest.mark.gpu
def test_on_a_gpu(tmp_path: Path) -> None:
    try:
        backend = TensorRTBackend(cache=tmp_path).__enter__()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with backend:
        for _ in range(2):  # with an empty timing cache and a filled one
            session = backend.load(conv())
            weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)[..., 0, 0]
            for x in (X, -X):
                wanted = np.maximum(np.einsum("oi,bihw->bohw", weight, x), 0)
                np.testing.assert_allclose(session.run({"x": x})["x.out"], wanted, rtol=1e-4, atol=1e-5)
            assert (session.time_ms(20) > 0).all()
            assert session.note is None or "CUDA graph" not in session.note
            session.close()
        assert list((tmp_path / "timing").iterdir()) and list((tmp_path / "layers").iterdir())
