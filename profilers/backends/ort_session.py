"""One model in ONNX Runtime, on the CPU or a GPU."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.backends import Array, Model, model_from
from profilers.errors import MeasurementFailed
from profilers.network import Tensor, random_inputs, signature, weights_bytes


class OrtSession:
    """One model in ONNX Runtime, its inputs and outputs bound to fixed memory."""

    activation_bytes: int | None = None  # the arena is shared by all sessions; no figure for one of them
    note: str | None = None

    def __init__(
        self, ort: Any, session: Any, model: Model, clock: Callable[[], int], cuda_ordinal: int | None = None
    ) -> None:
        self._clock = clock
        self._session = session
        self._on_gpu = cuda_ordinal is not None
        graph = model_from(model)
        self.weights_bytes: int | None = weights_bytes(graph)
        self._signature = signature(graph)
        place = ("cpu", 0) if cuda_ordinal is None else ("cuda", cuda_ordinal)
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(array, *place)
            for name, array in random_inputs(self._signature.inputs, np.random.default_rng(0)).items()
        }
        self._outputs = {
            tensor.name: ort.OrtValue.ortvalue_from_shape_and_type(tensor.shape, tensor.dtype, *place)
            for tensor in self._signature.outputs
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def time_ms(self, iterations: int) -> NDArray[np.float64]:
        run, binding, clock = self._open().run_with_iobinding, self._binding, self._clock
        wait = binding.synchronize_outputs if self._on_gpu else lambda: None
        stamps = [clock()]
        with refusal("run"):
            for _ in range(iterations):
                run(binding)
                wait()
                stamps.append(clock())
        samples = np.diff(np.array(stamps, dtype=np.int64)) / 1e6
        # On a virtual machine a processor clock may step back when the thread moves to another core.
        return samples[samples > 0]

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        wanted = [tensor.name for tensor in self._signature.inputs]
        if set(wanted) != set(inputs):
            raise MeasurementFailed(f"the model takes inputs {wanted}, not {list(inputs)}")
        session, names = self._open(), [tensor.name for tensor in self._signature.outputs]
        with refusal("run"):
            if not self._on_gpu:
                return dict(zip(names, session.run(names, dict(inputs)), strict=True))
            for tensor in self._signature.inputs:
                self._inputs[tensor.name].update_inplace(_checked(tensor, inputs[tensor.name]))
            session.run_with_iobinding(self._binding)
            self._binding.synchronize_outputs()
            return {name: value.numpy() for name, value in self._outputs.items()}

    def close(self) -> None:
        self._session = self._binding = None
        self._inputs = self._outputs = {}

    def _open(self) -> Any:
        if self._session is None:
            raise MeasurementFailed("this session was closed")
        return self._session


@contextlib.contextmanager
def refusal(verb: str) -> Iterator[None]:
    """Whatever ONNX Runtime raises becomes one line."""
    try:
        yield
    except MeasurementFailed:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MeasurementFailed(f"ONNX Runtime does not {verb} it: {reason}") from error


def nodes_elsewhere(session: Any, provider: str) -> str | None:
    """Nodes that another provider runs; None: there are none, or this version (before 1.24) does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    nodes = Counter(
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if part.ep_name != provider
    )
    listed = ", ".join(f"{count} {kind} on {name}" for (name, kind), count in sorted(nodes.items()))
    return f"not on {provider}: {listed}" if listed else None


def _checked(tensor: Tensor, array: Array) -> Array:
    """Copying into device memory checks nothing."""
    if (array.dtype, array.shape) != (tensor.numpy_dtype, tensor.shape):
        raise MeasurementFailed(f"input {tensor.name!r} is {tensor}, not {array.dtype}{list(array.shape)}")
    return np.ascontiguousarray(array)
