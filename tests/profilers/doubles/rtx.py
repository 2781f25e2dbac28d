"""A double of `tensorrt_rtx` 1.7, on top of that of `tensorrt`."""

from __future__ import annotations

import enum
import weakref
from types import ModuleType
from typing import Any

from .build import BuilderConfig, HostMemory, ParserErrorWithOperator
from .engine import ELEMENT_TYPES, Context, Engine, Runtime, WithEngineStat, WithMemorySizeV2
from .gpu import Gpu
from .tensorrt import base

VERSION = "1.7.1.116"


class RtxBuilderConfig(BuilderConfig):
    num_compute_capabilities = 0

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        if index >= self.num_compute_capabilities:
            return False
        self._built.compute_capability = compute_capability.name
        return True


class RuntimeCache:
    """Compiled kernels; none before an engine first ran."""

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._content = b""

    def serialize(self) -> HostMemory:
        return HostMemory(b"KERNELS " + self._content)

    def deserialize(self, blob: bytes) -> bool:
        if not blob.startswith(b"KERNELS "):
            return False
        self._content = blob.removeprefix(b"KERNELS ")
        return True


class RuntimeConfig:
    """Does not hold the cache it is given, as in the real bindings."""

    cuda_graph_strategy: Any = None

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._cache: weakref.ref[RuntimeCache] | None = None
        self._strategy = trt.ExecutionContextAllocationStrategy.STATIC

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self._cache = weakref.ref(cache)
        return True


class RtxEngine(Engine, WithMemorySizeV2, WithEngineStat):
    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self._trt)

    def create_execution_context(self, runtime_config: RuntimeConfig) -> Any:
        wants_memory = "REQUIRE_USER_ALLOCATION" in self._flags
        if wants_memory != (runtime_config._strategy.name == "USER_MANAGED"):
            self._trt.double.log("Execution context creation requires kUSER_MANAGED allocation strategy.")
            return None
        return self._context(weakref.proxy(runtime_config))


class RtxContext(Context):
    _memory: int | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory and size >= self._engine.device_memory_size_v2
        assert self._config._strategy.name == "USER_MANAGED"
        self._memory = memory

    def __del__(self) -> None:
        try:
            assert self._config._cache() is not None
        except (ReferenceError, AssertionError):
            self._trt.double.crashes += 1

    def is_stream_capturable(self, stream: int) -> bool:
        return not self._trt.double.faults.not_capturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        cache = None
        if self._config._cache is not None:
            cache = self._config._cache()
            assert cache is not None, "the real bindings crash here"
        if self._config._strategy.name == "USER_MANAGED":
            self._trt.double.gpu.bytes_at(self._memory, self._engine.device_memory_size_v2)
        if cache is None or not cache._content:
            self._trt.double.gpu.host_ms += 40.0  # compilation
        if cache is not None:
            cache._content = b"compiled"
        return super().execute_async_v3(stream_handle)


class RtxRuntime(Runtime):
    def get_engine_validity(self, buffer: bytes) -> Any:
        kind, bits = self._trt.double.faults.validity
        return self._trt.EngineValidity[kind], bits


def module(gpu: Gpu) -> ModuleType:
    trt = base("tensorrt_rtx", VERSION, gpu)
    trt.NetworkDefinitionCreationFlag = enum.IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 0})
    trt.BuilderFlag = enum.Enum("BuilderFlag", ["TF32", "REQUIRE_USER_ALLOCATION"])
    trt.DataType = enum.Enum("DataType", list(ELEMENT_TYPES))
    trt.ComputeCapability = enum.Enum(
        "ComputeCapability", ["NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121"]
    )
    trt.ExecutionContextAllocationStrategy = enum.Enum(
        "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
    )
    trt.double.crashes = 0
    trt.CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
    trt.EngineStat = enum.Enum("EngineStat", ["TOTAL_WEIGHTS_SIZE"])
    trt.EngineValidity = enum.Enum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"])
    trt.EngineInvalidityDiagnostics = enum.IntEnum(
        "EngineInvalidityDiagnostics",
        {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4, "OLD_CUDA_RUNTIME": 8}
        | {"INSUFFICIENT_GPU_MEMORY": 16, "MALFORMED_ENGINE": 32, "CUDA_ERROR": 64},
    )
    trt.ParserError = ParserErrorWithOperator
    trt.IBuilderConfig, trt.ICudaEngine, trt.IExecutionContext = RtxBuilderConfig, RtxEngine, RtxContext
    trt.double.runtime_class = RtxRuntime
    trt.IRuntimeConfig, trt.IRuntimeCache = RuntimeConfig, RuntimeCache
    return trt
