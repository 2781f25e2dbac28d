"""TensorRT-RTX: engines from ONNX, built ahead of time, on a machine without a GPU as well."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from profilers.errors import BackendUnavailable, EngineBuildFailed

INSTALL = "pip install tensorrt-rtx-cu13"


def compute_capabilities() -> tuple[str, ...]:
    """The compute capabilities that the installed TensorRT-RTX builds for, e.g. `("8.6", "8.9")`.

    Raises:
        BackendUnavailable: the package is missing.
    """
    return tuple(sorted(_capability_members(_tensorrt_rtx()), key=float))


def runtime_version() -> str:
    """The version of the installed TensorRT-RTX; an engine runs with exactly that version.

    Raises:
        BackendUnavailable: the package is missing.
    """
    return str(_tensorrt_rtx().__version__)


def build_engine(onnx_model: bytes, *, compute_capability: str, workspace_bytes: int | None = None) -> bytes:
    """Builds a strongly typed engine: the precision of every layer is the one written in the ONNX file.

    Args:
        onnx_model: a serialised ONNX model, weights included, static shapes.
        compute_capability: of the GPU that will run the engine, e.g. `"8.9"`; no GPU is needed here.
        workspace_bytes: upper bound of the scratch memory of a layer; None leaves it to TensorRT-RTX.

    Returns:
        The serialised engine. It runs with this version of TensorRT-RTX only.

    Raises:
        BackendUnavailable: the package is missing, or it does not build for that compute capability.
        EngineBuildFailed: the model is not readable, or has operators or sizes that cannot be built.
    """
    trt = _tensorrt_rtx()
    members = _capability_members(trt)
    if compute_capability not in members:
        raise BackendUnavailable(
            f"TensorRT-RTX {trt.__version__} does not build for compute capability {compute_capability!r}: "
            f"it builds for {', '.join(sorted(members, key=float))}"
        )
    log = _collecting_logger(trt)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx_model):
        raise EngineBuildFailed(f"TensorRT-RTX cannot read the model: {_parser_errors(parser, log)}")
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(members[compute_capability], 0)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineBuildFailed(f"TensorRT-RTX cannot build the network: {_first(log.messages)}")
    return bytes(engine)


def _tensorrt_rtx() -> ModuleType:
    try:
        import tensorrt_rtx
    except ImportError as error:
        raise BackendUnavailable(f"TensorRT-RTX is missing: {INSTALL}") from error
    return tensorrt_rtx  # type: ignore[no-any-return]


def _capability_members(trt: Any) -> dict[str, Any]:
    """`"8.9"` -> ComputeCapability.SM89 for all numbered members."""
    numbered = {
        name: member for name, member in trt.ComputeCapability.__members__.items() if name[2:].isdigit()
    }
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in numbered.items()}


def _collecting_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps the errors."""

    class CollectingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.messages.append(message)

    return CollectingLogger()


def _parser_errors(parser: Any, log: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    operators = sorted({error.node_operator() for error in errors if error.node_operator()})
    reason = _first([error.desc() for error in errors] + log.messages)
    return f"operator {', '.join(operators)}: {reason}" if operators else reason


def _first(messages: list[str]) -> str:
    """The first message as one line."""
    return " ".join(messages[0].split()) if messages else "it gave no reason"
