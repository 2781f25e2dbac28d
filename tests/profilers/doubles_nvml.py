"""A double of pynvml: machines with GPUs that this one has not, and drivers that refuse to tell.

Names, constants, signatures and structures are those of the real module.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pynvml as real


class NVMLError(Exception):
    def __init__(self, value: int = real.NVML_ERROR_UNKNOWN) -> None:
        super().__init__(value)
        self.value = value


def uuid_of(index: int) -> str:
    return f"GPU-{index}234abcd-0000-1111-2222-333344445555"


def mig_uuid_of(number: int) -> str:
    return f"MIG-{number}fedcba9-0000-1111-2222-333344445555"


_MIG = 100  # handles from here on are those of MIG instances, which answer these calls only
_ANSWERED_BY_INSTANCES = ("Name", "UUID", "MemoryInfo", "DeviceHandleFromMigDeviceHandle")


def _filled(structure: Any, **values: int) -> Any:
    filled = structure()
    for name, value in values.items():
        setattr(filled, name, value)
    return filled


def _field_values(handle: int, fields: Sequence[int]) -> Any:
    assert list(fields) == [real.NVML_FI_DEV_POWER_INSTANT]
    values = (real.c_nvmlFieldValue_t * 1)()
    values[0].value.uiVal = 250_500
    return values


def _memory_info(handle: int, version: int | None = None) -> Any:
    sizes = {"total": 16 << 30, "free": 12 << 30}
    if handle >= _MIG:
        sizes = {"total": 4 << 30, "free": 2 << 30}
    if version is None:
        return _filled(real.c_nvmlMemory_t, **sizes)
    assert version == real.nvmlMemory_v2
    return _filled(real.c_nvmlMemory_v2_t, **sizes, reserved=1 << 30)


def _violation(handle: int, policy: int) -> Any:
    times = {real.NVML_PERF_POLICY_POWER: 3000, real.NVML_PERF_POLICY_THERMAL: 400}
    return _filled(real.c_nvmlViolationTime_t, violationTime=times[policy])


def _board(instance: int) -> int:
    if instance < _MIG:
        raise NVMLError(real.NVML_ERROR_INVALID_ARGUMENT)
    return 0


def machine(
    names: Sequence[str] = ("Tesla V100-SXM2-16GB",),
    *,
    refuses: Mapping[str, int] | None = None,
    lacks: Sequence[str] = (),
    lost: Sequence[int] = (),
    reasons: int = 0x4 | 0x1,
    compute_capability: tuple[int, int] = (7, 0),
    driver: str = "580.95.05",
    as_bytes: bool = False,
    instances: Sequence[str] | None = None,
) -> SimpleNamespace:
    """What pynvml is on a machine with these GPUs, all alike.

    Args:
        refuses: call -> error code it raises.
        lacks: names that this release of nvidia-ml-py has not.
        lost: indices of boards that fell off the bus.
        reasons: bits of the clock event reasons.
        as_bytes: text comes as bytes, as from old releases.
        instances: names of the MIG instances of the first GPU, with a gap in their numbers; None: no MIG.
    """
    calls: Counter[str] = Counter()

    def text(value: str) -> str | bytes:
        return value.encode() if as_bytes else value

    def handle_by_uuid(uuid: str) -> int:
        for index in range(len(names)):
            if uuid == uuid_of(index):
                return index
        for number in range(len(instances or ())):
            if uuid == mig_uuid_of(number):
                return _MIG + number
        raise NVMLError(real.NVML_ERROR_NOT_FOUND)

    def handle_by_index(index: int) -> int:
        if index in lost:
            raise NVMLError(real.NVML_ERROR_GPU_IS_LOST)
        return index

    def instance_by_index(handle: int, index: int) -> int:
        if not 1 <= index <= len(instances or ()):
            raise NVMLError(real.NVML_ERROR_NOT_FOUND)
        return _MIG + index - 1

    def name(handle: int) -> str | bytes:
        return text(names[handle] if handle < _MIG else (instances or ())[handle - _MIG])

    def uuid(handle: int) -> str | bytes:
        return text(uuid_of(handle) if handle < _MIG else mig_uuid_of(handle - _MIG))

    clocks = {real.NVML_CLOCK_SM: 1380, real.NVML_CLOCK_MEM: 877}
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: text(driver),
        "nvmlSystemGetCudaDriverVersion": lambda: 13010,
        "nvmlDeviceGetCount": lambda: len(names),
        "nvmlDeviceGetHandleByIndex": handle_by_index,
        "nvmlDeviceGetHandleByUUID": handle_by_uuid,
        "nvmlDeviceGetName": name,
        "nvmlDeviceGetUUID": uuid,
        "nvmlDeviceGetMemoryInfo": _memory_info,
        "nvmlDeviceGetCudaComputeCapability": lambda handle: compute_capability,
        "nvmlDeviceGetClockInfo": lambda handle, kind: clocks[kind],
        "nvmlDeviceGetMaxClockInfo": lambda handle, kind: clocks[kind] + 100,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetFieldValues": _field_values,
        "nvmlDeviceGetPowerUsage": lambda handle: 240_000,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 987_654_321,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: reasons,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: reasons,
        "nvmlDeviceGetViolationStatus": _violation,
        "nvmlDeviceGetEnforcedPowerLimit": lambda handle: 300_000,
        "nvmlDeviceGetMigMode": lambda handle: [int(instances is not None and handle == 0), 0],
        "nvmlDeviceGetMaxMigDeviceCount": lambda handle: 7,
        "nvmlDeviceGetMigDeviceHandleByIndex": instance_by_index,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": _board,
        "nvmlDeviceGetPersistenceMode": lambda handle: 0,
    }

    def asked(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            inspect.signature(getattr(real, name)).bind(*arguments, **options)
            calls[name] += 1
            is_instance = arguments and isinstance(arguments[0], int) and arguments[0] >= _MIG
            if is_instance and name.removeprefix("nvmlDeviceGet") not in _ANSWERED_BY_INSTANCES:
                raise NVMLError(real.NVML_ERROR_INVALID_ARGUMENT)
            if name in (refuses or {}):
                raise NVMLError((refuses or {})[name])
            return answers[name](*arguments, **options)

        return call

    constants = {name: getattr(real, name) for name in dir(real) if name.startswith(("NVML_", "nvmlMemory_"))}
    known: dict[str, Any] = {**constants, **{name: asked(name) for name in answers}}
    module = SimpleNamespace(**{name: known[name] for name in known if name not in lacks})
    module.NVMLError, module.calls = NVMLError, calls
    return module
