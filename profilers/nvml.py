"""NVIDIA GPUs as the driver lists them (NVML, package nvidia-ml-py); none where there is no driver."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from profilers.errors import BackendUnavailable


@dataclass(frozen=True)
class GpuDevice:
    """One GPU. `uuid_hash` tells two boards apart without naming either."""

    index: int  # in NVML's order, by PCI address; CUDA may order otherwise
    name: str
    uuid_hash: str
    memory_bytes: int
    compute_capability: str  # "7.0"
    driver_version: str
    uuid: str | None = None  # never written to a file


def devices() -> list[GpuDevice]:
    """Every GPU the driver shows, or none where library, driver or permission is missing."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        return [_device(pynvml, index, driver) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def find_device(word: str) -> GpuDevice:
    """The first GPU whose name contains `word`, whatever the case.

    Raises:
        BackendUnavailable: none does; says what is present and how to profile on another machine.
    """
    present = devices()
    for device in present:
        if word.lower() in device.name.lower():
            return device
    names = ", ".join(device.name for device in present) or "no NVIDIA GPU"
    raise BackendUnavailable(
        f"no GPU named like {word!r} here (present: {names}); on the machine that has it run "
        "'python -m profilers measure manifest.json --backend <backend> --out latency_tables' "
        "and copy the table's folder back"
    )


def _device(pynvml: Any, index: int, driver: str) -> GpuDevice:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GpuDevice(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid_hash=hashlib.sha256(_text(pynvml.nvmlDeviceGetUUID(handle)).encode()).hexdigest()[:16],
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        compute_capability=f"{major}.{minor}",
        driver_version=driver,
    )


def _text(value: str | bytes) -> str:
    """Older releases of the library answer with bytes."""
    return value.decode() if isinstance(value, bytes) else value
