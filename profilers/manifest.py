"""What to measure: `manifest.json` beside the ONNX files it names.

    {"format": 1, "tool_version": "..", "space_hash": "..", "batch": 1, "precision": "fp32",
     "input_height": 512, "input_width": 1024,
     "parts": {"<key>": {"file": "parts/x.onnx", "sha256": ".."}},
     "workloads": [{"key": "<key>", "probes": [{"count": 1, "parts": ["<key>", ..]}, ..]}],
     "wholes": [{"parts": ["<key>", ..], "workloads": ["<key>", ..]}]}

A *part* is one ONNX model of static shapes. A *probe* is a network, the listed parts chained by the names
of their tensors (`profilers.network.bind`), in which the workload occurs `count` times. The cost of a
workload is the least-squares slope of latency on count over its probes, that is its *marginal* cost inside a
network: what every run pays once (launch, input copy) is the intercept and drops out. One piece of arithmetic
covers all uses:

- chains: (B):1, (B,B):2, (B,B,B,B):4 give the cost of one more B;
- with and without: (A,T):1, (A):0 give t(A,T) - t(A);
- a transition T between contexts A and B: (A,T,B):1, (A,A):0, (B,B):0 give t(ATB) - (t(AA) + t(BB)) / 2;
- one probe alone: latency / count.

A *whole* is a network whose latency should be the sum of the costs of the workloads it lists, as often as it
lists them; costs are corrected by it (`profilers.calibration`).

The same parts list in several workloads is one network and is measured once. Keys are opaque text. Inputs of
a network are filled with random numbers; where values matter for the time (boxes, say), let a part without
inputs make them from a Constant.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

import onnx
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from profilers.errors import InvalidManifest
from profilers.network import bind, compose, signature

Network = tuple[str, ...]
"""The keys of the parts of a network, in order."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Part(_Strict):
    """One ONNX file, its path relative to the manifest, and the SHA-256 of its bytes."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Probe(_Strict):
    """A network in which the workload occurs `count` times (0: the context without it)."""

    count: int = Field(ge=0)
    parts: Annotated[Network, Field(min_length=1, strict=False)]


class Workload(_Strict):
    """A thing to be costed, and the networks it is costed from."""

    key: str = Field(min_length=1)
    probes: Annotated[tuple[Probe, ...], Field(min_length=1, strict=False)]


class Whole(_Strict):
    """A network that should cost what its workloads cost together."""

    parts: Annotated[Network, Field(min_length=1, strict=False)]
    workloads: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]


class Manifest(_Strict):
    """The document; made by `read_manifest`, which also checks every file behind it."""

    format: Literal[1]
    tool_version: str
    space_hash: str
    batch: int = Field(ge=1)
    precision: str = Field(pattern=r"^[a-z0-9]+$")
    input_height: int = Field(ge=1)
    input_width: int = Field(ge=1)
    parts: dict[str, Part]
    workloads: Annotated[tuple[Workload, ...], Field(min_length=1, strict=False)]
    wholes: Annotated[tuple[Whole, ...], Field(strict=False)] = ()
    _folder: Path = PrivateAttr(default=Path())
    _sha256: str = PrivateAttr(default="")

    @property
    def folder(self) -> Path:
        """Where the manifest lies."""
        return self._folder

    @property
    def sha256(self) -> str:
        """SHA-256 of the manifest file; it covers the parts, whose hashes are inside."""
        return self._sha256

    def networks(self) -> tuple[Network, ...]:
        """Every distinct network, in order of first use."""
        probed = [probe.parts for workload in self.workloads for probe in workload.probes]
        return tuple(dict.fromkeys(probed + [whole.parts for whole in self.wholes]))

    def part_bytes(self) -> dict[str, int]:
        """Size of each part's file."""
        return {key: (self._folder / part.file).stat().st_size for key, part in self.parts.items()}

    def load_part(self, key: str) -> onnx.ModelProto:
        """One part. Raises InvalidManifest: no such part, no such file, other content, not ONNX."""
        if key not in self.parts:
            raise InvalidManifest(f"part {key!r} is used but not listed under 'parts'")
        part = self.parts[key]
        path = PurePosixPath(part.file)
        if path.is_absolute() or ".." in path.parts:
            raise InvalidManifest(f"part {key!r}: {part.file!r} must lie beside the manifest")
        try:
            content = (self._folder / path).read_bytes()
        except OSError as error:
            raise InvalidManifest(f"part {key!r}: cannot read {part.file!r} ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise InvalidManifest(f"part {key!r}: {part.file!r} is another file (sha256): export again")
        return _model_from_bytes(content, key)

    def load_network(self, network: Network) -> onnx.ModelProto:
        """The parts of a network, chained. Raises InvalidManifest as `load_part` and `compose`."""
        parts = {key: self.load_part(key) for key in dict.fromkeys(network)}
        return compose([parts[key] for key in network], labels=network)


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest and every file it names.

    Args:
        path: the file, or the folder that holds `manifest.json`.

    Raises:
        InvalidManifest: one line naming what is wrong.
    """
    path = path / "manifest.json" if path.is_dir() else path
    try:
        content = path.read_bytes()
        manifest = Manifest.model_validate(json.loads(content))
    except OSError as error:
        raise InvalidManifest(f"cannot read {path.name} ({error.strerror}): export it first") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise InvalidManifest(f"{path.name}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise InvalidManifest(f"{path.name} is not JSON ({error}): export again") from error
    manifest._folder = path.parent
    manifest._sha256 = hashlib.sha256(content).hexdigest()
    _check(manifest)
    return manifest


def write_manifest(
    folder: Path,
    *,
    tool_version: str,
    space_hash: str,
    batch: int,
    precision: str,
    input_height: int,
    input_width: int,
    parts: Mapping[str, onnx.ModelProto | bytes],
    workloads: Mapping[str, Sequence[Probe]],
    wholes: Sequence[Whole] = (),
) -> Path:
    """Write the parts, then the manifest; return its path. What was written is read back and checked."""
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    listed: dict[str, Part] = {}
    for key, model in parts.items():
        content = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
        file = f"parts/{_file_stem(key)}.onnx"
        (folder / file).write_bytes(content)
        listed[key] = Part(file=file, sha256=hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        format=1,
        tool_version=tool_version,
        space_hash=space_hash,
        batch=batch,
        precision=precision,
        input_height=input_height,
        input_width=input_width,
        parts=listed,
        workloads=tuple(Workload(key=key, probes=tuple(probes)) for key, probes in workloads.items()),
        wholes=tuple(wholes),
    )
    path = folder / "manifest.json"
    path.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    read_manifest(path)
    return path


def _check(manifest: Manifest) -> None:
    keys = [workload.key for workload in manifest.workloads]
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidManifest(f"workload {twice!r} is listed twice")
    for workload in manifest.workloads:
        counts = {probe.count for probe in workload.probes}
        if len(counts) == 1 and (len(workload.probes) > 1 or counts == {0}):
            raise InvalidManifest(f"workload {workload.key!r}: no slope, its probes all have count {counts}")
    for whole in manifest.wholes:
        if strange := [key for key in whole.workloads if key not in keys]:
            raise InvalidManifest(f"a whole network lists {strange[0]!r}, which is no workload")
    signatures = {key: signature(manifest.load_part(key), key) for key in manifest.parts}
    for network in manifest.networks():
        if unknown := [key for key in network if key not in signatures]:
            raise InvalidManifest(f"part {unknown[0]!r} is used but not listed under 'parts'")
        bind([signatures[key] for key in network], network)


def _model_from_bytes(content: bytes, key: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # DecodeError of protobuf, whatever its implementation
        raise InvalidManifest(f"part {key!r} is not an ONNX model: export again") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise InvalidManifest(f"part {key!r} keeps weights in another file: export it as one file")
    return model


def _file_stem(key: str) -> str:
    """Readable, and distinct for every key also on file systems that ignore case."""
    readable = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
