"""A device that does not exist: latency is arithmetic on the graph, in virtual time.

One run of a model costs `overhead_ms` plus, per node, `node_ms` and `ms_per_element` for every element of its
weights. Costs add up exactly, so what a protocol makes of them can be checked to the last digit.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from profilers.backends import Array, Facts, Model, model_from
from profilers.condition import Condition
from profilers.errors import MeasurementFailed
from profilers.network import signature, weights_bytes


class FakeBackend:
    """Deterministic backend.

    Args:
        overhead_ms: what each run costs whatever the model.
        drift: factor on every latency at a virtual time in ms (a device that heats up); None: constant speed.
        noise: standard deviation of the logarithm of a latency; needs `rng`.
        rng: source of the noise.
        failing: patterns (as in `fnmatch`); a model with a node whose name or type matches one does not load.
        throttling: condition of the device at a virtual time in ms; None: it tells nothing.
    """

    name = "fake"

    def __init__(
        self,
        overhead_ms: float = 0.05,
        node_ms: float = 0.01,
        ms_per_element: float = 1e-5,
        drift: Callable[[float], float] | None = None,
        noise: float = 0.0,
        rng: np.random.Generator | None = None,
        failing: Sequence[str] = (),
        throttling: Callable[[float], Condition] | None = None,
    ) -> None:
        self.overhead_ms = overhead_ms
        self.node_ms = node_ms
        self.ms_per_element = ms_per_element
        self.drift = drift
        self.noise = noise
        self.rng = rng
        self.failing = tuple(failing)
        self.throttling = throttling
        self.now_ms = 0.0
        self.loaded = 0

    def __enter__(self) -> FakeBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def load(self, model: Model) -> FakeSession:
        graph = model_from(model)
        for node in graph.graph.node:
            for pattern in self.failing:
                if fnmatch.fnmatch(node.name, pattern) or fnmatch.fnmatch(node.op_type, pattern):
                    raise MeasurementFailed(f"the fake device refuses node {node.name!r} ({node.op_type})")
        self.loaded += 1
        elements = sum(math.prod(tensor.dims) for tensor in graph.graph.initializer)
        cost = self.overhead_ms + self.node_ms * len(graph.graph.node) + self.ms_per_element * elements
        return FakeSession(self, graph, cost)

    def describe(self) -> Facts:
        return {"device": "fake device", "runtime": "fake", "runtime_version": "1", "threads": 1}

    def condition(self) -> Condition:
        return Condition() if self.throttling is None else self.throttling(self.now_ms)

    def run_ms(self, cost_ms: float) -> float:
        """Latency of one run now; virtual time passes."""
        latency = cost_ms * (self.drift(self.now_ms) if self.drift else 1.0)
        if self.noise:
            if self.rng is None:
                raise MeasurementFailed("noise on the fake device needs rng=numpy.random.default_rng(seed)")
            latency *= math.exp(self.noise * self.rng.standard_normal())
        self.now_ms += latency
        return latency


class FakeSession:
    """One model on the fake device; its outputs are zeros."""

    activation_bytes: int | None = None
    note: str | None = None

    def __init__(self, backend: FakeBackend, model: Model, cost_ms: float) -> None:
        graph = model_from(model)
        self.weights_bytes: int | None = weights_bytes(graph)
        self._backend = backend
        self._signature = signature(graph)
        self._cost_ms = cost_ms
        self._closed = False

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        self._check_open()
        return np.array([self._backend.run_ms(self._cost_ms) for _ in range(iterations)])

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._check_open()
        wanted = [tensor.name for tensor in self._signature.inputs]
        if set(wanted) != set(inputs):
            raise MeasurementFailed(f"the model takes inputs {wanted}, not {list(inputs)}")
        return {tensor.name: np.zeros(tensor.shape, tensor.numpy_dtype) for tensor in self._signature.outputs}

    def close(self) -> None:
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise MeasurementFailed("this session was closed")
