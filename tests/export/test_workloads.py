"""The exported workloads fit together, and chained they are the detectors that ship."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from profilers.backends import backend_by_name
from profilers.manifest import Manifest, read_manifest
from profilers.network import signature
from spnas_hw.cost.closed_set import closed_set
from spnas_hw.cost.composition import workloads
from spnas_hw.cost.workload import Connection, Overhead
from spnas_hw.detection.detector import build_model
from spnas_hw.export.detector import OUTPUTS, detector_onnx
from spnas_hw.export.workloads import write_workloads
from spnas_hw.space.architecture import Architecture, Block
from spnas_hw.space.codec import decode
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace

SIZE = (96, 160)
SPACE = SearchSpace(
    blocks=(Block("basic"),), base_channels=8, deep_stem=False, stages=(2, 3), depth=(3, 6), doublings=(1, 1)
)
DETECTOR = Detector(
    ("pedestrian", "rider"),
    neck_channels=16,
    anchor_scales=(2.5,),
    proposals_per_level=60,
    proposals=40,
    finest_scale=14.0,
    roi_channels=32,
    nms_candidates=80,
    detections=30,
)
RETINANET = Detector(
    ("pedestrian", "rider"),
    neck_channels=16,
    anchor_scales=(2.5,),
    proposals_per_level=60,
    nms_candidates=80,
    detections=30,
    type="retinanet",
    head_convs=2,
)
WHOLES = [decode("b8_112-1"), decode("b8_11-2-11")]


def build(architecture: Architecture) -> object:
    return build_model(architecture, DETECTOR)


TYPES = [
    ("faster_rcnn", "fp32"),
    ("faster_rcnn", "fp16"),
    ("cascade_rcnn", "fp32"),
    ("retinanet", "fp32"),
]


@pytest.fixture(scope="module", params=TYPES, ids="-".join)
def parts_of(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A type of detector and a precision."""
    return request.param


@pytest.fixture(scope="module")
def detector(parts_of: tuple[str, str]) -> Detector:
    return RETINANET if parts_of[0] == "retinanet" else dataclasses.replace(DETECTOR, type=parts_of[0])


@pytest.fixture(scope="module")
def exported(
    parts_of: tuple[str, str], tmp_path_factory: pytest.TempPathFactory, detector: Detector
) -> Manifest:
    path = write_workloads(
        tmp_path_factory.mktemp("parts"),
        SPACE,
        detector,
        SIZE,
        lambda architecture: build_model(architecture, detector),
        space_hash="s",
        precision=parts_of[1],
        wholes=WHOLES,
    )
    return read_manifest(path)


def test_every_workload_of_the_space_is_there(exported: Manifest, detector: Detector) -> None:
    expected = closed_set(SPACE, detector, SIZE)
    assert {workload.key for workload in exported.workloads} == set(expected)


def test_a_whole_runs_from_image_to_boxes(exported: Manifest) -> None:
    for whole in exported.wholes:
        model = exported.load_network(whole.parts)
        with backend_by_name("onnxruntime") as backend:
            image = np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)
            found = backend.load(model).run({"image": image})
        assert set(OUTPUTS) <= set(found) and found["boxes"].dtype == np.float32
        assert found["boxes"].shape == (DETECTOR.detections, 4)


def test_a_whole_does_what_the_shipped_detector_does(exported: Manifest, detector: Detector) -> None:
    if exported.precision != "fp32":
        pytest.skip("casts differ where parts were cut apart")
    for whole, architecture in zip(exported.wholes, WHOLES, strict=True):
        shipped = detector_onnx(build_model(architecture, detector).eval(), detector, SIZE)
        assert operators(exported.load_network(whole.parts)) == operators(shipped)


def test_the_parts_of_a_parallel_network_are_what_its_detector_runs(exported: Manifest, detector) -> None:
    if exported.precision != "fp32":
        pytest.skip("casts differ where parts were cut apart")
    architecture = decode("b8_112-11_2-1")
    loads = [load for load in workloads(architecture, detector, SIZE) if load.key != Overhead().key]
    assert any(isinstance(load, Connection) for load in loads)
    parts: Counter[str] = sum((operators(exported.load_part(load.key)) for load in loads), Counter())
    assert parts == operators(detector_onnx(build_model(architecture, detector), detector, SIZE))


def test_a_connection_is_costed_as_a_branch_beside_its_stage(exported: Manifest) -> None:
    """No transition between unlike blocks: their caches made cheap connections cost less than nothing."""
    connections = [w for w in exported.workloads if w.key.startswith("connection-")]
    assert connections
    for workload in connections:
        added, bare = (exported.load_network(probe.parts) for probe in workload.probes)
        count = workload.probes[0].count - workload.probes[1].count
        own = operators(exported.load_part(workload.key))
        assert operators(added) - operators(bare) == Counter({op: count * n for op, n in own.items()})
        assert signature(added) == signature(bare)


def operators(model: onnx.ModelProto) -> Counter[str]:
    """What is computed, and how often; not what only carries constants and shapes around."""
    plumbing = {
        *("Constant", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Concat", "Transpose", "Slice"),
        "And",  # joins two flags of convergence, which parts keep apart
    }
    return Counter(node.op_type for node in model.graph.node if node.op_type not in plumbing)


def test_half_precision_halves_the_weights_and_not_the_boxes(exported: Manifest) -> None:
    types = Counter(
        tensor.data_type
        for key in exported.parts
        for tensor in exported.load_part(key).graph.initializer
        if len(tensor.dims) == 4 and tensor.dims[0] > 1
    )
    wanted = onnx.TensorProto.FLOAT16 if exported.precision == "fp16" else onnx.TensorProto.FLOAT
    assert types[wanted] == max(types.values())


def test_blocks_too_narrow_for_their_groups_get_another_context(tmp_path: Path) -> None:
    space = dataclasses.replace(
        SPACE, blocks=(decode("x(8x4d)16_11").block,), base_channels=16, stages=(2, 2)
    )
    path = write_workloads(
        tmp_path, space, DETECTOR, SIZE, build, space_hash="s", precision="fp32", wholes=[]
    )
    assert {w.key for w in read_manifest(path).workloads} == set(closed_set(space, DETECTOR, SIZE))
