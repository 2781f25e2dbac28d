"""Which of CUDA's devices a GPU is.

CUDA numbers only what CUDA_VISIBLE_DEVICES showed it when the process started, by default fastest first; NVML
numbers everything by PCI address. Only the UUID is the same for both.
"""

from __future__ import annotations

import os
import uuid
from typing import NamedTuple

from profilers.cuda import install_bindings
from profilers.errors import BackendUnavailable
from profilers.nvml import GpuDevice, bare_uuid, devices


class CudaGpu(NamedTuple):
    """A device as CUDA sees it, with CUDA's number."""

    number: int
    name: str
    uuid: str | None
    compute_capability: str | None


def cuda_device(gpu: GpuDevice | None) -> CudaGpu:
    """The device of a GPU; None: CUDA's first.

    Raises:
        BackendUnavailable: no device; CUDA does not see that one; or without cuda-bindings, which tell the
            order, it could be any of several.
    """
    seen = _cuda_devices()
    if seen is None:
        seen = _only_device()
    if not seen:
        raise BackendUnavailable(
            "no CUDA device here: 'nvidia-smi' must list one that CUDA_VISIBLE_DEVICES does not hide"
        )
    for found in seen:
        if gpu is None or (gpu.uuid and found.uuid and bare_uuid(gpu.uuid) == bare_uuid(found.uuid)):
            return found
    assert gpu is not None
    if gpu.uuid is None and len(seen) == 1:
        return seen[0]
    raise BackendUnavailable(f"CUDA does not see {gpu.name}: look at CUDA_VISIBLE_DEVICES")


def _cuda_devices() -> list[CudaGpu] | None:
    """Every device in CUDA's order; None where cuda-bindings is missing."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return None
    # The first version names the board of a MIG instance; since CUDA 13 there is only the second.
    get_uuid = getattr(driver, "cuDeviceGetUuid_v2", driver.cuDeviceGetUuid)
    attribute = driver.CUdevice_attribute
    major = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    minor = attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    found: list[CudaGpu] = []
    try:
        driver.cuInit(0)
        _, count = driver.cuDeviceGetCount()
        for number in range(int(count or 0)):
            _, device = driver.cuDeviceGet(number)
            name = bytes(driver.cuDeviceGetName(256, device)[1]).split(b"\0")[0].decode()
            text = f"GPU-{uuid.UUID(bytes=bytes(get_uuid(device)[1].bytes))}"
            capability = [driver.cuDeviceGetAttribute(which, device)[1] for which in (major, minor)]
            found.append(CudaGpu(number, name, text, ".".join(map(str, capability))))
    except RuntimeError:  # there is no driver library
        return []
    return found


def _only_device() -> list[CudaGpu]:
    """By NVML, which knows nothing of CUDA's order: so there must be one only. Raises BackendUnavailable."""
    seen = _visible(devices())
    if len(seen) > 1:
        raise BackendUnavailable(
            f"there are {len(seen)} GPUs, and which is which only cuda-bindings tell: {install_bindings()}"
        )
    return [CudaGpu(0, gpu.name, gpu.uuid, gpu.compute_capability) for gpu in seen]


def _visible(present: list[GpuDevice]) -> list[GpuDevice]:
    """Without those that CUDA_VISIBLE_DEVICES hides; a number in it may stand for any of them."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return present
    words = [word.strip().lower() for word in shown.split(",")]
    if any(word.isdigit() and int(word) < len(present) for word in words):
        return present
    return [gpu for gpu in present if any(w and (gpu.uuid or "").lower().startswith(w) for w in words)]
