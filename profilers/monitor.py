"""The state of one NVIDIA GPU while it is measured, as NVML tells it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from profilers.condition import THROTTLING, Condition
from profilers.nvml import bare_uuid, initialized, text

Told = TypeVar("Told")
Ask: TypeAlias = Callable[[Any, Any], Told]
"""A question to NVML: (the module pynvml, the handle of a GPU) -> the answer; raises NVMLError for none."""


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

    Of a MIG instance, clocks, heat and throttling are those of its board; memory is its own. Energy is not
    told: that of the neighbours would be in it.

    Args:
        uuid: "GPU-..." or "MIG-...", and looked for as both, since CUDA does not say which it is; None, or
            one that NVML does not know: nothing is told.
    """

    def __init__(self, uuid: str | None) -> None:
        self._awake = ExitStack()
        self._pynvml = None if uuid is None else self._awake.enter_context(initialized())
        self._refused: set[Ask[Any]] = set()
        self._handle: Any = None
        asks = [_by_uuid(f"{kind}-{bare_uuid(uuid)}") for kind in ("GPU", "MIG")] if uuid else []
        found = self.told(*asks)
        if found is None:
            self.close()
        board = self.told(_board, of=found)
        self._handle = found if board is None else board
        self._is_divided = self.told(_mig_mode) == "on"
        # CUDA may name the board although it is divided, and then its memory is that of all instances.
        self._memory_of = None if board is None and self._is_divided else found

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the driver; nothing is told any more. Calling it again does nothing."""
        self._pynvml = self._handle = self._memory_of = None
        self._awake.close()

    def condition(self) -> Condition:
        """The GPU's state now."""
        reasons = self.told(_event_reasons, _throttle_reasons)
        return Condition(
            sm_clock_mhz=self.told(_sm_clock_mhz),
            memory_clock_mhz=self.told(_memory_clock_mhz),
            temperature_c=self.told(_temperature_c),
            power_w=self.told(_power_instant_w, _power_usage_w),
            energy_mj=None if self._is_divided else self.told(_energy_mj),
            used_bytes=None
            if self._memory_of is None
            else self.told(_used_bytes, _used_bytes_v1, of=self._memory_of),
            throttle_reasons=None if reasons is None else _names(reasons),
            violation_ns=self.told(_violation_ns),
        )

    def told(self, *asks: Ask[Told], of: Any = None) -> Told | None:
        """The first of the questions that is answered, about the board or the handle `of`; None: none is."""
        pynvml = self._pynvml
        for ask in asks:
            if pynvml is None or ask in self._refused:
                continue
            try:
                return ask(pynvml, self._handle if of is None else of)
            except pynvml.NVMLError as error:
                if error.value in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                    self._refused.add(ask)
            except AttributeError:  # a name that this release of nvidia-ml-py lacks
                self._refused.add(ask)
        return None


def _by_uuid(uuid: str) -> Ask[Any]:
    return lambda pynvml, _: pynvml.nvmlDeviceGetHandleByUUID(uuid)


def _board(pynvml: Any, handle: Any) -> Any:
    """The board that a MIG instance is part of; no answer for a board."""
    return pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)


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
    return int(pynvml.nvmlDeviceGetViolationStatus(handle, pynvml.NVML_PERF_POLICY_THERMAL).violationTime)


def _driver_version(pynvml: Any, _: Any) -> str:
    return text(pynvml.nvmlSystemGetDriverVersion())


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
