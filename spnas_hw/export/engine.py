"""ONNX -> TensorRT-RTX engine, built ahead of time for a named compute capability, GPU or not."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from profilers.backends.rtx import build_engine, runtime_version
from profilers.errors import ProfilerError
from spnas_hw.errors import ExportError


@dataclass(frozen=True)
class Engine:
    """A serialised engine and what it is: `scope` says how much of the detector is inside."""

    content: bytes
    runtime: str
    runtime_version: str
    compute_capability: str
    precision: str
    scope: str


def engine_from_onnx(model: onnx.ModelProto, compute_capability: str, precision: str) -> Engine:
    """The whole detector as one engine, no plugins. Raises ExportError with the first refused operator."""
    try:
        content = build_engine(model.SerializeToString(), compute_capability=compute_capability)
    except ProfilerError as error:
        raise ExportError(str(error)) from error
    version = runtime_version()
    return Engine(content, "tensorrt-rtx", version, compute_capability, precision, "whole detector")
