"""The half of the doubles that builds: parser, configuration, builder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import onnx


@dataclass
class Built:
    """One build, as it was asked for."""

    network_flags: set[str]
    flags: set[str]
    pool_limits: dict[str, int]
    builder_optimization_level: int
    profiling_verbosity: str
    timing_cache: bytes | None
    compute_capability: str | None = None
    hardware: str | None = None


class HostMemory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self) -> int:
        return len(self._content)

    def __bytes__(self) -> bytes:
        return self._content


class ParserError:
    """As in TensorRT 8."""

    def __init__(self, desc: str, node: int, operator: str) -> None:
        self._desc, self._node, self._operator = desc, node, operator

    def desc(self) -> str:
        return self._desc

    def node(self) -> int:
        return self._node


class ParserErrorWithOperator(ParserError):
    def node_operator(self) -> str:
        return self._operator


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> HostMemory:
        return HostMemory(self._content)


class BuilderConfig:
    builder_optimization_level = 3

    def __init__(self, trt: Any) -> None:
        self._trt = trt
        self._built = Built(set(), {"TF32"}, {}, 3, "LAYER_NAMES_ONLY", None)
        self._timings: TimingCache | None = None
        self.profiling_verbosity = trt.ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_flag(self, flag: Any) -> None:
        self._built.flags.add(flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._built.flags.discard(flag.name)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._built.pool_limits[pool.name] = pool_size

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
        if serialized_timing_cache[:6] not in (b"", b"TIMING"):
            self._trt.double.log("timing cache has an invalid header")
            return None
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        assert ignore_mismatch is False
        if cache._content and self._trt.double.faults.stale_timing_cache:
            self._trt.double.log("timing cache was made on another device")
            return False
        self._timings, self._built.timing_cache = cache, cache._content
        return True

    def get_timing_cache(self) -> TimingCache | None:
        return self._timings

    @property
    def hardware_compatibility_level(self) -> None:
        raise NotImplementedError

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, level: Any) -> None:
        self._built.hardware = level.name

    def _finish(self, model: bytes) -> None:
        """What a build leaves in the timing cache."""
        if self._timings is not None:
            entry = hashlib.sha256(model).hexdigest().encode()
            known = self._timings._content or b"TIMING"
            self._timings._content = known if entry in known else known + b" " + entry


class Network:
    def __init__(self, flags: set[str]) -> None:
        self._flags = flags
        self._model = b""


class Builder:
    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def create_network(self, flags: int = 0) -> Network:
        members = self._trt.NetworkDefinitionCreationFlag.__members__
        return Network({name for name, member in members.items() if flags & (1 << int(member))})

    def create_builder_config(self) -> BuilderConfig:
        return self._trt.IBuilderConfig(self._trt)

    def build_serialized_network(self, network: Network, config: BuilderConfig) -> HostMemory | None:
        double, built = self._trt.double, config._built
        built.network_flags = network._flags
        built.builder_optimization_level = config.builder_optimization_level
        built.profiling_verbosity = config.profiling_verbosity.name
        double.builds.append(built)
        weak = built.flags & {"FP16", "INT8", "BF16"}
        if "STRONGLY_TYPED" in network._flags and weak:
            double.log(f"{weak.pop()} is not allowed on a strongly typed network")
            return None
        refusal = double.faults.build
        if double.faults.user_allocation and "REQUIRE_USER_ALLOCATION" in built.flags:
            refusal = "the network needs memory that only a run can size"
        if refusal:
            double.log(refusal)
            double.log("Internal Error (Assertion engine != nullptr failed.)")
            return None
        config._finish(network._model)
        flags = ",".join(sorted(built.flags)).encode()
        return HostMemory(b"|".join([self._trt.__version__.encode(), flags, network._model]))


class OnnxParser:
    def __init__(self, trt: Any, network: Network) -> None:
        self._trt, self._network = trt, network
        self._errors: list[ParserError] = []

    def parse(self, model: bytes, path: str | None = None) -> bool:
        error, double = self._trt.ParserError, self._trt.double
        try:
            nodes = onnx.load_model_from_string(model).graph.node
        except Exception:
            self._errors.append(error("Failed to parse the ONNX model.", -1, ""))
            return False
        if double.major == 8 and "EXPLICIT_BATCH" not in self._network._flags:
            self._errors.append(error("only networks with an explicit batch can be parsed", -1, ""))
            return False
        for number, node in enumerate(nodes):
            if node.op_type in double.faults.unsupported:
                self._errors.append(error(f"No importer\nfor {node.op_type}.", number, node.op_type))
        self._network._model = model
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]
