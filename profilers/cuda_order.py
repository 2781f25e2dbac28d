"""Which of CUDA's devices a GPU is.

CUDA numbers only what CUDA_VISIBLE_DEVICES showed it when the process started, by default fastest first; NVML
numbers everything by PCI address. Only the UUID is the same for both.
"""

from __future__ import annotations

import uuid

from profilers.errors import BackendUnavailable
from profilers.nvml import GpuDevice, devices


def cuda_device(gpu: GpuDevice | None) -> tuple[int, str, str | None]:
    """CUDA's number, the name and the UUID of a GPU; None: of CUDA's first device.

    Without cuda-bindings the order is not known and NVML's is taken.

    Raises:
        BackendUnavailable: no device, or CUDA does not see that one.
    """
    seen = _cuda_devices()
    if gpu is None:
        known = seen or [(device.name, device.uuid) for device in devices()]
        if not known:
            raise BackendUnavailable("no CUDA device here: 'nvidia-smi' must list one")
        return 0, *known[0]
    uuids = [device_uuid for _, device_uuid in seen]
    if gpu.uuid in uuids:
        return uuids.index(gpu.uuid), gpu.name, gpu.uuid
    if seen and gpu.uuid is not None:
        raise BackendUnavailable(f"CUDA does not see {gpu.name}: look at CUDA_VISIBLE_DEVICES")
    return gpu.index, gpu.name, gpu.uuid


def _cuda_devices() -> list[tuple[str, str | None]]:
    """Name and UUID of each device in CUDA's order; none where cuda-bindings or the driver is missing."""
    try:
        from cuda.bindings import driver

        driver.cuInit(0)
        _, count = driver.cuDeviceGetCount()
        found: list[tuple[str, str | None]] = []
        for number in range(int(count or 0)):
            _, device = driver.cuDeviceGet(number)
            _, name = driver.cuDeviceGetName(256, device)
            _, identity = driver.cuDeviceGetUuid(device)
            text = f"GPU-{uuid.UUID(bytes=bytes(identity.bytes))}"
            found.append((bytes(name).split(b"\0")[0].decode(), text))
    except (ImportError, RuntimeError):  # RuntimeError: there is no driver library
        return []
    return found
