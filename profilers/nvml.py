"""NVIDIA GPUs as the driver tells of them: NVML, through the package nvidia-ml-py (module pynvml).

No call is sure to be answered: there may be no driver, and Jetson, containers, MIG and old drivers leave out
much. What is not told is None. A GPU in MIG mode is its instances: what CUDA can use.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from profilers.errors import BackendUnavailable


@dataclass(frozen=True)
class GpuDevice:
    """One GPU, or one MIG instance. `uuid_hash` tells two boards apart without naming either."""

    index: int  # of the board, in NVML's order, by PCI address; CUDA may order otherwise
    name: str
    uuid_hash: str
    memory_bytes: int
    compute_capability: str  # "7.0"
    driver_version: str
    uuid: str | None = None  # "GPU-..." or "MIG-..." in full; never written to a file


def devices() -> list[GpuDevice]:
    """Every GPU the driver shows, or none where library, driver or permission is missing."""
    with initialized() as pynvml:
        if pynvml is None:
            return []
        try:
            driver = text(pynvml.nvmlSystemGetDriverVersion())
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            return []
        found = []
        for index in range(count):
            try:
                found += _at(pynvml, index, driver)
            except pynvml.NVMLError:  # a lost board must not hide the others
                continue
        return found


def find_device(word: str) -> GpuDevice:
    """The first GPU of a name or a UUID, whatever the case.

    Args:
        word: the beginning of a UUID ("GPU-1234", "MIG-1234"); or a word of the name; or, where no GPU has it
            as a word, part of one, but not of a number: "A10" is no A100.

    Raises:
        BackendUnavailable: none does; says what is present and how to profile on another machine.
    """
    present, wanted = devices(), word.lower()
    if wanted.startswith(("gpu-", "mig-")):
        found = [device for device in present if (device.uuid or "").lower().startswith(wanted)]
    else:
        whole = rf"(?<![a-z0-9]){re.escape(wanted)}(?![a-z0-9])"
        before = r"(?<!\d)" if wanted[:1].isdigit() else ""
        after = r"(?!\d)" if wanted[-1:].isdigit() else ""
        part = before + re.escape(wanted) + after
        found = _named(whole, present) or _named(part, present)
    if found:
        return found[0]
    names = ", ".join(device.name for device in present) or "no NVIDIA GPU"
    raise BackendUnavailable(
        f"no GPU {word!r} here (present: {names}); to profile on the machine that has it: "
        "`spnas-hw export-workloads DIR`, then on the target "
        "`python -m profilers measure DIR/manifest.json --runtime tensorrt`, "
        "then `spnas-hw table import FOLDER`"
    )


def cuda_driver_version() -> str | None:
    """The newest CUDA the driver knows, e.g. "13.0"; None where it does not tell."""
    with initialized() as pynvml:
        if pynvml is None:
            return None
        try:
            version = int(pynvml.nvmlSystemGetCudaDriverVersion())
        except pynvml.NVMLError:
            return None
        return f"{version // 1000}.{version % 1000 // 10}"


def bare_uuid(uuid: str) -> str:
    """Without what it is one of: "GPU-1234..." -> "1234..."."""
    return re.sub("^(GPU|MIG)-", "", uuid).lower()


def uuid_hash(uuid: str) -> str:
    """Tells two boards apart without naming either; the same whoever told the UUID."""
    return hashlib.sha256(f"GPU-{bare_uuid(uuid)}".encode()).hexdigest()[:16]


def _named(pattern: str, present: list[GpuDevice]) -> list[GpuDevice]:
    return [device for device in present if re.search(pattern, device.name.lower())]


def _at(pynvml: Any, index: int, driver: str) -> list[GpuDevice]:
    """The GPU of that number; in MIG mode its instances, where it has any."""
    board = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(board)
    found = []
    for handle in _instances(pynvml, board) or [board]:
        uuid = text(pynvml.nvmlDeviceGetUUID(handle))
        device = GpuDevice(
            index=index,
            name=text(pynvml.nvmlDeviceGetName(handle)),
            uuid_hash=uuid_hash(uuid),
            memory_bytes=_memory_bytes(pynvml, handle),
            compute_capability=f"{major}.{minor}",
            driver_version=driver,
            uuid=uuid,
        )
        found.append(device)
    return found


def _instances(pynvml: Any, board: Any) -> list[Any]:
    """Handles of the MIG instances of a board; none where there is no MIG."""
    found = []
    with suppress(pynvml.NVMLError, AttributeError):  # AttributeError: an old nvidia-ml-py
        if pynvml.nvmlDeviceGetMigMode(board)[0]:
            for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(board)):
                with suppress(pynvml.NVMLError):  # a number that no instance has
                    found.append(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(board, number))
    return found


def _memory_bytes(pynvml: Any, handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED or not hasattr(os, "sysconf"):
            raise
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # an integrated GPU shares the host's


@contextmanager
def initialized() -> Iterator[Any]:
    """The module pynvml with NVML awake, as long as the block lasts; None where that is not to be had."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def text(value: str | bytes) -> str:
    """What NVML answers, as text: older releases of the library answer with bytes."""
    return value.decode() if isinstance(value, bytes) else value
