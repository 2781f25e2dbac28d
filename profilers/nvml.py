"""NVIDIA GPUs as the driver tells of them: NVML, through the package nvidia-ml-py (module pynvml).

No call is sure to be answered: there may be no driver, and Jetson, containers, MIG and old drivers leave out
much. What is not told is None.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from profilers.condition import THROTTLING, Condition
from profilers.errors import BackendUnavailable

Told = TypeVar("Told")
Ask: TypeAlias = Callable[[Any, Any], Told]
"""A question to NVML: (the module pynvml, the handle of a GPU) -> the answer; raises NVMLError for none."""


@dataclass(frozen=True)
class GpuDevice:
    """One GPU. `uuid_hash` tells two boards apart without naming either."""

    index: int  # in NVML's order, by PCI address; CUDA may order otherwise
    name: str
    uuid_hash: str
    memory_bytes: int
    compute_capability: str  # "7.0"
    driver_version: str
    uuid: str | None = None  # "GPU-..." in full; never written to a file


def devices() -> list[GpuDevice]:
    """Every GPU the driver shows, or none where library, driver or permission is missing."""
    with _initialized() as pynvml:
        if pynvml is None:
            return []
        try:
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError:
            return []
        found = []
        for index in range(count):
            try:
                found.append(_device(pynvml, index, driver))
            except pynvml.NVMLError:  # a lost board must not hide the others
                continue
        return found


def find_device(word: str) -> GpuDevice:
    """The first GPU whose name contains `word`, or whose UUID starts with it ("GPU-1234"), whatever the case.

    Raises:
        BackendUnavailable: none does; says what is present and how to profile on another machine.
    """
    present, wanted = devices(), word.lower()
    for device in present:
        by_uuid = wanted.startswith("gpu-") and (device.uuid or "").lower().startswith(wanted)
        if by_uuid or wanted in device.name.lower():
            return device
    names = ", ".join(device.name for device in present) or "no NVIDIA GPU"
    raise BackendUnavailable(
        f"no GPU {word!r} here (present: {names}); to profile on the machine that has it: "
        "`spnas-hw export-workloads DIR`, then on the target "
        "`python -m profilers measure DIR/manifest.json --runtime tensorrt`, "
        "then `spnas-hw table import FOLDER`"
    )


def cuda_driver_version() -> str | None:
    """The newest CUDA the driver knows, e.g. "13.0"; None where it does not tell."""
    with _initialized() as pynvml:
        if pynvml is None:
            return None
        try:
            version = int(pynvml.nvmlSystemGetCudaDriverVersion())
        except pynvml.NVMLError:
            return None
        return f"{version // 1000}.{version % 1000 // 10}"


def device_facts(uuid: str | None) -> dict[str, str | int | float | None]:
    """What stays the same while a GPU is measured, for the provenance of a table; None where not told."""
    with Monitor(uuid) as gpu:
        return {
            "driver_version": gpu.told(_driver_version),
            "power_limit_w": gpu.told(_power_limit_w),
            "max_sm_clock_mhz": gpu.told(_max_sm_clock_mhz),
            "max_memory_clock_mhz": gpu.told(_max_memory_clock_mhz),
            "mig_mode": gpu.told(_mig_mode),
            "persistence_mode": gpu.told(_persistence_mode),
        }


class Monitor:
    """Watches one GPU. What the driver refuses for good is not asked again, so that watching stays cheap.

    Args:
        uuid: as NVML and CUDA write it, "GPU-..."; None, or one that NVML does not know: nothing is told.
    """

    def __init__(self, uuid: str | None) -> None:
        self._awake = ExitStack()
        self._pynvml = None if uuid is None else self._awake.enter_context(_initialized())
        self._handle: Any = None
        self._refused: set[Ask[Any]] = set()
        self._handle = self.told(lambda pynvml, _: pynvml.nvmlDeviceGetHandleByUUID(uuid))
        if self._handle is None:
            self.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the driver; nothing is told any more. Calling it again does nothing."""
        self._pynvml = self._handle = None
        self._awake.close()

    def condition(self) -> Condition:
        """The GPU's state now."""
        reasons = self.told(_event_reasons, _throttle_reasons)
        return Condition(
            sm_clock_mhz=self.told(_sm_clock_mhz),
            memory_clock_mhz=self.told(_memory_clock_mhz),
            temperature_c=self.told(_temperature_c),
            power_w=self.told(_power_instant_w, _power_usage_w),
            energy_mj=self.told(_energy_mj),
            used_bytes=self.told(_used_bytes, _used_bytes_v1),
            throttle_reasons=None if reasons is None else _names(reasons),
            violation_ns=self.told(_violation_ns),
        )

    def told(self, *asks: Ask[Told]) -> Told | None:
        """The first of the questions that is answered; None where none is."""
        pynvml = self._pynvml
        for ask in asks:
            if pynvml is None or ask in self._refused:
                continue
            try:
                return ask(pynvml, self._handle)
            except pynvml.NVMLError as error:
                if error.value in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                    self._refused.add(ask)
            except AttributeError:  # a name that this release of nvidia-ml-py lacks
                self._refused.add(ask)
        return None


def _sm_clock_mhz(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))


def _memory_clock_mhz(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def _temperature_c(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))


def _power_instant_w(pynvml: Any, handle: Any) -> float:
    """Not an average over the last second, which is what newer boards give for the power usage."""
    (field,) = pynvml.nvmlDeviceGetFieldValues(handle, [pynvml.NVML_FI_DEV_POWER_INSTANT])
    if field.nvmlReturn != pynvml.NVML_SUCCESS:
        raise pynvml.NVMLError(field.nvmlReturn)
    return float(field.value.uiVal) / 1e3


def _power_usage_w(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetPowerUsage(handle)) / 1e3


def _energy_mj(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def _used_bytes(pynvml: Any, handle: Any) -> int:
    """Whether `used` itself counts what the driver reserves differs between drivers."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
    return int(memory.total - memory.reserved - memory.free)


def _used_bytes_v1(pynvml: Any, handle: Any) -> int:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return int(memory.total - memory.free)


def _event_reasons(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))


def _throttle_reasons(pynvml: Any, handle: Any) -> int:
    """The same bits by the name that older drivers know."""
    return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def _names(reasons: int) -> tuple[str, ...]:
    return tuple(name for bit, name in THROTTLING.items() if reasons & bit)


def _violation_ns(pynvml: Any, handle: Any) -> int:
    policies = (pynvml.NVML_PERF_POLICY_POWER, pynvml.NVML_PERF_POLICY_THERMAL)
    status = (pynvml.nvmlDeviceGetViolationStatus(handle, policy) for policy in policies)
    return sum(int(violation.violationTime) for violation in status)


def _driver_version(pynvml: Any, _: Any) -> str:
    return _text(pynvml.nvmlSystemGetDriverVersion())


def _power_limit_w(pynvml: Any, handle: Any) -> float:
    return float(pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)) / 1e3


def _max_sm_clock_mhz(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM))


def _max_memory_clock_mhz(pynvml: Any, handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_MEM))


def _mig_mode(pynvml: Any, handle: Any) -> str:
    current, _ = pynvml.nvmlDeviceGetMigMode(handle)
    return "on" if current else "off"


def _persistence_mode(pynvml: Any, handle: Any) -> str:
    return "on" if pynvml.nvmlDeviceGetPersistenceMode(handle) else "off"


def _device(pynvml: Any, index: int, driver: str) -> GpuDevice:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    return GpuDevice(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid_hash=hashlib.sha256(uuid.encode()).hexdigest()[:16],
        memory_bytes=_memory_bytes(pynvml, handle),
        compute_capability=f"{major}.{minor}",
        driver_version=driver,
        uuid=uuid,
    )


def _memory_bytes(pynvml: Any, handle: Any) -> int:
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED or not hasattr(os, "sysconf"):
            raise
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # an integrated GPU shares the host's


@contextmanager
def _initialized() -> Iterator[Any]:
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


def _text(value: str | bytes) -> str:
    """Older releases of the library answer with bytes."""
    return value.decode() if isinstance(value, bytes) else value
