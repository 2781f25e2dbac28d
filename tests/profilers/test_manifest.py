from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx_parts import chain, conv, manifest

from profilers.errors import InvalidManifest
from profilers.manifest import Probe, Whole, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest(tmp_path, {"block/A": conv(), "block/a": conv(seed=1)}, {"block/A": chain("block/A")})
    return tmp_path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refusal(folder: Path) -> str:
    with pytest.raises(InvalidManifest) as caught:
        read_manifest(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(folder: Path) -> None:
    found = read_manifest(folder / "manifest.json")
    assert found.networks() == (("block/A",), ("block/A",) * 2, ("block/A",) * 4)
    assert found.parts.keys() == {"block/A", "block/a"}
    assert len({part.file.lower() for part in found.parts.values()}) == 2
    assert len(found.load_network(("block/A", "block/a")).graph.node) == 4
    assert found.sha256 == read_manifest(folder).sha256


def test_network_of_several_workloads_is_one(tmp_path: Path) -> None:
    shared = Probe(count=0, parts=("b",))
    found = manifest(
        tmp_path, {"b": conv()}, {"b": chain("b"), "t": [Probe(count=1, parts=("b",) * 3), shared]}
    )
    assert len(found.networks()) == 4


def test_missing_manifest(tmp_path: Path) -> None:
    assert "manifest.json" in refusal(tmp_path)


def test_not_json(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"format": 1,')
    assert "not JSON" in refusal(folder)


def test_missing_file(folder: Path) -> None:
    next((folder / "parts").glob("*")).unlink()
    assert "parts/block-a" in refusal(folder)


def test_changed_file(folder: Path) -> None:
    next((folder / "parts").glob("*")).write_bytes(b"other")
    assert "sha256" in refusal(folder)


def test_file_that_is_not_onnx(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="'broken' is not an ONNX model"):
        manifest(tmp_path, {"broken": b"\xff\xff not a model"}, {"broken": chain("broken")})  # type: ignore[dict-item]


def test_file_outside_the_folder(folder: Path) -> None:
    edit(folder, lambda m: m["parts"]["block/A"].update(file="../x.onnx"))
    assert "beside the manifest" in refusal(folder)


def test_unknown_part(folder: Path) -> None:
    edit(folder, lambda m: m["workloads"][0]["probes"][0].update(parts=["who"]))
    assert "'who'" in refusal(folder)


def test_tensors_that_do_not_fit(tmp_path: Path) -> None:
    probes = [Probe(count=1, parts=("wide", "narrow")), Probe(count=0, parts=("narrow",))]
    with pytest.raises(InvalidManifest, match="'narrow' reads"):
        manifest(tmp_path, {"wide": conv(channels=8), "narrow": conv()}, {"w": probes})


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(extra=1),
        lambda m: m["parts"]["block/A"].update(extra=1),
        lambda m: m["workloads"][0]["probes"][0].update(extra=1),
        lambda m: m.update(format=2),
        lambda m: m.update(batch="1"),
        lambda m: m.update(workloads=[]),
        lambda m: m.pop("precision"),
        lambda m: m["workloads"][0]["probes"][0].update(count=-1),
        lambda m: m["workloads"][0].update(probes=[]),
        lambda m: m["workloads"].append(m["workloads"][0]),
        lambda m: [probe.update(count=2) for probe in m["workloads"][0]["probes"]],
        lambda m: m["workloads"][0].update(probes=[{"count": 0, "parts": ["block/A"]}]),
    ],
)
def test_other_faults_are_refused(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(folder, change)
    refusal(folder)


def test_external_weights_are_refused(tmp_path: Path) -> None:
    part = conv()
    part.graph.initializer[0].data_location = 1
    with pytest.raises(InvalidManifest, match="another file"):
        manifest(tmp_path, {"b": part}, {"b": chain("b")})


def test_writer_takes_serialised_parts(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path,
        tool_version="1",
        space_hash="s",
        batch=2,
        precision="fp16",
        input_height=1,
        input_width=1,
        parts={"b": conv().SerializeToString()},
        workloads={"b": [Probe(count=2, parts=("b", "b"))]},
    )
    assert read_manifest(path).batch == 2


def test_whole_networks(tmp_path: Path) -> None:
    whole = Whole(parts=("b", "b", "b"), workloads=("b", "b", "b"))
    found = manifest(tmp_path, {"b": conv()}, {"b": chain("b", (1, 2))}, [whole])
    assert found.wholes == (whole,) and found.networks()[-1] == ("b", "b", "b")
    edit(tmp_path, lambda m: m["wholes"][0].update(workloads=["who"]))
    assert "'who', which is no workload" in refusal(tmp_path)
