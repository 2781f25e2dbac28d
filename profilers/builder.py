"""ONNX to engine, for TensorRT and TensorRT-RTX, whose Python modules are alike.

`trt` is that module, `tensorrt` or `tensorrt_rtx`, throughout.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import onnx

from profilers.errors import BackendUnavailable, EngineBuildFailed, MeasurementFailed


class EngineBuild:
    """A network read from ONNX, and the configuration its engine will be built with.

    Args:
        model: a serialised ONNX model, weights included, static shapes.
        flags: members of `NetworkDefinitionCreationFlag` the network is made with.

    Raises:
        BackendUnavailable: this release does not work on this device.
        EngineBuildFailed: the model is not readable, or has operators that cannot be built.
    """

    def __init__(self, trt: Any, model: bytes, flags: Sequence[Any]) -> None:
        self._trt, self._model = trt, model
        self._builder = created(trt, trt.Builder)
        self._network = self._builder.create_network(sum(1 << int(flag) for flag in flags))
        self._parser = trt.OnnxParser(self._network, logger(trt))  # holds the weights until the build
        if not self._parser.parse(model):
            errors = [self._parser.get_error(number) for number in range(self._parser.num_errors)]
            operators = {operator for error in errors if (operator := self._operator(error))}
            raise self._refusal("read the model", operators, [error.desc() for error in errors])
        self.config = self._builder.create_builder_config()

    def plan(self) -> bytes:
        """The serialised engine. Raises EngineBuildFailed: an operator or a size that cannot be built."""
        logger(self._trt).errors.clear()
        plan = self._builder.build_serialized_network(self._network, self.config)
        if plan is None:
            raise self._refusal("build the network", self._operators_in(reason(self._trt)))
        return bytes(plan)

    def _refusal(self, verb: str, operators: Collection[str], told: Sequence[str] = ()) -> EngineBuildFailed:
        named = f"operator {', '.join(sorted(operators))}: " if operators else ""
        return EngineBuildFailed(f"{product(self._trt)} cannot {verb}: {named}{reason(self._trt, told)}")

    def _operator(self, error: Any) -> str | None:
        """The operator a parser error is about; TensorRT 8 tells only the number of the node."""
        if hasattr(error, "node_operator"):
            return str(error.node_operator()) or None
        nodes, number = _nodes(self._model), error.node()
        return str(nodes[number].op_type) if 0 <= number < len(nodes) else None

    def _operators_in(self, message: str) -> set[str]:
        """Operators of the nodes that a message of the builder names."""
        words = set(re.split(r"[\s\[\](){},:;'\"+]+|\.{3}", message))
        return {node.op_type for node in _nodes(self._model) if node.name and node.name in words}


@functools.cache
def logger(trt: Any) -> Any:
    """Prints nothing and keeps `errors`. One for all: TensorRT uses the first of a process and no other."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return CollectingLogger()


def product(trt: Any) -> str:
    """How messages call it."""
    return "TensorRT-RTX" if trt.__name__ == "tensorrt_rtx" else "TensorRT"


def reason(trt: Any, told: Sequence[str] = ()) -> str:
    """The first of what was told or else logged, as one line."""
    messages = [*told, *logger(trt).errors]
    return " ".join(messages[0].split()) if messages else "it gave no reason"


def created(trt: Any, kind: Any) -> Any:
    """A `Builder` or `Runtime`. Raises BackendUnavailable: this release does not work on this device."""
    logger(trt).errors.clear()
    try:
        return kind(logger(trt))
    except TypeError as error:  # what the bindings make of a null pointer
        release = f"{product(trt)} {trt.__version__}"
        raise BackendUnavailable(f"{release} does not start on this device: {reason(trt)}") from error


def load_engine(trt: Any, runtime: Any, plan: bytes) -> Any:
    """The engine of a plan. It may execute what it holds: give it only plans that were built just now.

    Raises MeasurementFailed: mostly, too little memory.
    """
    logger(trt).errors.clear()
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise MeasurementFailed(f"{product(trt)} cannot load its engine: {reason(trt)}")
    return engine


def keep_layers(trt: Any, engine: Any, model: bytes, cache: Path) -> None:
    """Write what became of the layers to `cache/layers/<SHA-256 of the model>.json`."""
    inspector = engine.create_engine_inspector()
    layers = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    write_whole(cache / "layers" / f"{hashlib.sha256(model).hexdigest()}.json", str(layers).encode())


def cache_key(version: str, device: str, compute_capability: str) -> str:
    """Name of files that fit one version on one kind of device, e.g. "10.4.0-tesla-v100-sxm2-16gb-7.0"."""
    return f"{version}-{re.sub('[^a-z0-9]+', '-', device.lower()).strip('-')}-{compute_capability}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _nodes(model: bytes) -> Sequence[onnx.NodeProto]:
    try:
        return list(onnx.load_model_from_string(model).graph.node)
    except Exception:  # DecodeError of protobuf, whatever its implementation
        return []
