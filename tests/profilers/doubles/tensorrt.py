"""Doubles of `tensorrt` 8.6, 10.4, 10.16 and 11.4, with what each has and lacks.

What is there was read off the bindings of the wheels on PyPI; members that begin with `_`, and `double`, are
the doubles' own.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import onnx

from .build import (
    Builder,
    BuilderConfig,
    Built,
    HostMemory,
    OnnxParser,
    ParserError,
    ParserErrorWithOperator,
    TimingCache,
)
from .engine import (
    ELEMENT_TYPES,
    Context,
    Engine,
    Inspector,
    Runtime,
    WithEngineStat,
    WithMemorySize,
    WithMemorySizeV2,
)
from .gpu import Gpu

VERSIONS = {"8.6": "8.6.1", "10.4": "10.4.0", "10.16": "10.16.1.11", "11.4": "11.4.0.106"}


@dataclass
class Faults:
    """What goes wrong, changed at any time."""

    unsupported: set[str] = field(default_factory=set)  # operators that the parser refuses
    start: str | None = None  # the message with which no Builder or Runtime can be made; so on
    build: str | None = None
    engine: str | None = None
    context: str | None = None
    run: str | None = None
    capture: str | None = None  # the message with which a run is refused while a stream is captured
    stale_timing_cache: bool = False  # set_timing_cache refuses what is not empty
    on_the_host: set[str] = field(default_factory=set)  # tensors that TensorRT wants in host memory
    engine_stat: bool = False  # get_engine_stat raises TypeError, as the bindings of some releases do
    validity: tuple[str, int] = ("VALID", 0)  # for TensorRT-RTX
    not_capturable: bool = False  # likewise
    user_allocation: bool = False  # likewise: does not build with BuilderFlag.REQUIRE_USER_ALLOCATION


class ILogger:
    Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])


class Logger(ILogger):
    WARNING = ILogger.Severity.WARNING

    def __init__(self, min_severity: Any) -> None:
        """Prints."""

    def log(self, severity: Any, msg: str) -> None:
        print(severity.name, msg)


class IOutputAllocator:
    pass


class Double:
    """Behind the API: what goes wrong, what was built, who listens."""

    def __init__(self, gpu: Gpu, major: int) -> None:
        self.gpu = gpu
        self.major = major
        self.runtime_class = Runtime
        self.faults = Faults()
        self.builds: list[Built] = []
        self.node_ms = 0.05
        self.plugins = False
        self._logger: Any = None

    def log(self, message: str) -> None:
        self._logger.log(ILogger.Severity.WARNING, "beside the point")
        self._logger.log(ILogger.Severity.ERROR, message)

    def started(self, logger: Any) -> None:
        """TensorRT stays with the first logger it is given. Raises what the bindings raise for null."""
        self._logger = self._logger or logger
        if self.faults.start:
            self.log(self.faults.start)
            raise TypeError("pybind11::init(): factory function returned nullptr")


def module(version: str, gpu: Gpu) -> ModuleType:
    """The module `tensorrt` of a version, e.g. "10.4"."""
    major, minor = map(int, version.split("."))
    trt = base("tensorrt", VERSIONS[version], gpu)
    network_flags = {8: {"EXPLICIT_BATCH": 0}, 10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}}
    trt.NetworkDefinitionCreationFlag = enum.IntEnum(
        "NetworkDefinitionCreationFlag", network_flags.get(major, {"STRONGLY_TYPED": 0})
    )
    weak = [] if major == 11 else ["FP16", "INT8"]
    trt.BuilderFlag = enum.Enum("BuilderFlag", [*weak, "TF32", "VERSION_COMPATIBLE"])
    levels = ["NONE", "AMPERE_PLUS", *["SAME_COMPUTE_CAPABILITY"] * ((major, minor) >= (10, 12))]
    trt.HardwareCompatibilityLevel = enum.Enum("HardwareCompatibilityLevel", levels)
    kinds = [kind for kind in ELEMENT_TYPES if major > 8 or kind not in ("INT64", "BF16")]
    trt.DataType = enum.Enum("DataType", kinds)
    trt.ParserError = ParserError if major == 8 else ParserErrorWithOperator
    sizes = [*[WithMemorySize] * (major < 11), *[WithMemorySizeV2] * (major > 8)]
    has_stat = (major, minor) >= (10, 16)
    trt.ICudaEngine = type("ICudaEngine", (Engine, *sizes, *[WithEngineStat] * has_stat), {})
    if has_stat:
        trt.EngineStat = enum.Enum("EngineStat", ["TOTAL_WEIGHTS_SIZE"])
    return trt


def base(name: str, version: str, gpu: Gpu) -> Any:
    """What every version, and TensorRT-RTX, has."""
    trt: Any = ModuleType(name)
    trt.__version__ = version
    trt.double = double = Double(gpu, int(version.split(".")[0]))
    trt.ILogger, trt.Logger, trt.IOutputAllocator = ILogger, Logger, IOutputAllocator
    trt.nptype = lambda kind: onnx.helper.tensor_dtype_to_np_dtype(ELEMENT_TYPES[kind.name])
    trt.IBuilderConfig, trt.IExecutionContext = BuilderConfig, Context
    trt.ProfilingVerbosity = enum.Enum("ProfilingVerbosity", ["LAYER_NAMES_ONLY", "DETAILED"])
    trt.LayerInformationFormat = enum.Enum("LayerInformationFormat", ["ONELINE", "JSON"])
    trt.MemoryPoolType = enum.Enum("MemoryPoolType", ["WORKSPACE"])
    trt.TensorIOMode = enum.Enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
    trt.TensorLocation = enum.Enum("TensorLocation", ["DEVICE", "HOST"])

    def builder(logger: Any) -> Builder:
        double.started(logger)
        return Builder(trt)

    def runtime(logger: Any) -> Runtime:
        double.started(logger)
        return double.runtime_class(trt)

    def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
        double.plugins = namespace == ""
        return double.plugins

    trt.Builder, trt.Runtime = builder, runtime
    trt.OnnxParser = lambda network, logger: OnnxParser(trt, network)
    trt.init_libnvinfer_plugins = init_libnvinfer_plugins
    return trt


def members(trt: Any) -> dict[str, set[str]]:
    """Public members of the classes and enumerations of a double, to be held against the real module."""
    found = {name: kind for name, kind in vars(trt).items() if isinstance(kind, type)}
    found |= {"Builder": Builder, "Runtime": trt.double.runtime_class, "OnnxParser": OnnxParser}
    found |= {"ITimingCache": TimingCache, "IHostMemory": HostMemory, "EngineInspector": Inspector}
    names = {name: dir(kind) for name, kind in found.items() if not issubclass(kind, enum.Enum)}
    names |= {name: list(kind.__members__) for name, kind in found.items() if issubclass(kind, enum.Enum)}
    return {name: {member for member in listed if member[0] != "_"} for name, listed in names.items()}
