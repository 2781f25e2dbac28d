"""Engines are built for real, without a GPU, wherever TensorRT-RTX is installed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from profilers.backends.rtx import build_engine, compute_capabilities, runtime_version
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
