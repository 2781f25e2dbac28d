from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pynvml as real
import pytest
from doubles_nvml import machine, mig_uuid_of, uuid_of

from profilers import nvml
from profilers.condition import Condition
from profilers.monitor import Monitor, device_facts

TOLD = Condition(
    sm_clock_mhz=1380,
    memory_clock_mhz=877,
    temperature_c=61,
    power_w=250.5,
    energy_mj=987_654_321,
    used_bytes=3 << 30,
    throttle_reasons=("power cap",),
    violation_ns=400,
)
FACTS: dict[str, str | int | float | None] = {
    "driver_version": "580.95.05",
    "power_limit_w": 300.0,
    "max_sm_clock_mhz": 1480,
    "max_memory_clock_mhz": 977,
    "mig_mode": "off",
    "persistence_mode": "off",
}


def install(monkeypatch: pytest.MonkeyPatch, pynvml: SimpleNamespace | None) -> Any:
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    return pynvml


@pytest.mark.parametrize(
    "pynvml", [None, machine([]), machine(refuses={"nvmlInit": real.NVML_ERROR_LIBRARY_NOT_FOUND})]
)
def test_no_library_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch, pynvml: SimpleNamespace | None) -> None:
    install(monkeypatch, pynvml)
    assert Monitor("GPU-1").condition() == Condition()
    assert set(device_facts("GPU-1").values()) == {None}


def test_condition_tells_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine(["Tesla T4", "Tesla V100-SXM2-16GB"]))
    with Monitor(uuid_of(1)) as monitor:
        assert monitor.condition() == monitor.condition() == TOLD
    assert pynvml.calls["nvmlDeviceGetHandleByUUID"] == 1


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (0, ()),
        (0x1 | 0x2 | 0x10 | 0x100, ()),
        (0x8 | 0x40, ("hardware slowdown", "hardware thermal")),
        (0xFF, ("power cap", "hardware slowdown", "software thermal", "hardware thermal", "power brake")),
    ],
)
def test_only_throttling_is_a_throttle_reason(
    monkeypatch: pytest.MonkeyPatch, bits: int, names: tuple[str, ...]
) -> None:
    install(monkeypatch, machine(reasons=bits))
    assert Monitor(uuid_of(0)).condition().throttle_reasons == names


LEFT_OUT: dict[str, dict[str, Any]] = {
    "nvmlDeviceGetClockInfo": {"sm_clock_mhz": None, "memory_clock_mhz": None},
    "nvmlDeviceGetTemperature": {"temperature_c": None},
    "nvmlDeviceGetFieldValues": {"power_w": 240.0},
    "nvmlDeviceGetPowerUsage": {},
    "nvmlDeviceGetTotalEnergyConsumption": {"energy_mj": None},
    "nvmlDeviceGetMemoryInfo": {"used_bytes": None},
    "nvmlDeviceGetCurrentClocksEventReasons": {},
    "nvmlDeviceGetCurrentClocksThrottleReasons": {},
    "nvmlDeviceGetViolationStatus": {"violation_ns": None},
}
"""Call that fails -> what is then other than in TOLD."""

ERRORS = (real.NVML_ERROR_NOT_SUPPORTED, real.NVML_ERROR_FUNCTION_NOT_FOUND, real.NVML_ERROR_UNKNOWN)


@pytest.mark.parametrize("call", LEFT_OUT)
@pytest.mark.parametrize("error", [*ERRORS, None])
def test_one_call_fails_alone(monkeypatch: pytest.MonkeyPatch, call: str, error: int | None) -> None:
    """None: the library does not even know the name."""
    pynvml = machine(lacks=[call]) if error is None else machine(refuses={call: error})
    install(monkeypatch, pynvml)
    monitor = Monitor(uuid_of(0))
    assert monitor.condition() == monitor.condition() == replace(TOLD, **LEFT_OUT[call])


def test_every_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine(refuses=dict.fromkeys(LEFT_OUT, real.NVML_ERROR_NOT_SUPPORTED)))
    assert Monitor(uuid_of(0)).condition() == Condition()


def test_old_drivers_know_the_reasons_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = {"nvmlDeviceGetCurrentClocksEventReasons": real.NVML_ERROR_FUNCTION_NOT_FOUND}
    pynvml = install(monkeypatch, machine(refuses=refuses, reasons=0x80))
    monitor = Monitor(uuid_of(0))
    assert [monitor.condition().throttle_reasons for _ in range(3)] == [("power brake",)] * 3
    assert pynvml.calls["nvmlDeviceGetCurrentClocksEventReasons"] == 1


def test_old_libraries_know_one_kind_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine(lacks=["nvmlMemory_v2"]))
    assert Monitor(uuid_of(0)).condition() == replace(TOLD, used_bytes=4 << 30)


def test_a_refused_field_falls_back_to_the_power_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine())
    refused = (real.c_nvmlFieldValue_t * 1)()
    refused[0].nvmlReturn = real.NVML_ERROR_NOT_SUPPORTED
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda handle, fields: refused)
    assert Monitor(uuid_of(0)).condition() == replace(TOLD, power_w=240.0)


@pytest.mark.parametrize(("error", "times"), zip(ERRORS, (1, 1, 3), strict=True))
def test_what_is_not_supported_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, error: int, times: int
) -> None:
    pynvml = install(monkeypatch, machine(refuses={"nvmlDeviceGetTemperature": error}))
    monitor = Monitor(uuid_of(0))
    for _ in range(3):
        monitor.condition()
    assert pynvml.calls["nvmlDeviceGetTemperature"] == times


@pytest.mark.parametrize("uuid", [None, "GPU-of-another-machine"])
def test_without_a_device_nothing_is_told(monkeypatch: pytest.MonkeyPatch, uuid: str | None) -> None:
    pynvml = install(monkeypatch, machine())
    assert Monitor(uuid).condition() == Condition()
    assert set(device_facts(uuid).values()) == {None}
    assert pynvml.calls["nvmlInit"] == pynvml.calls["nvmlShutdown"]


def test_closing_lets_go_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine())
    monitor = Monitor(uuid_of(0))
    assert pynvml.calls["nvmlShutdown"] == 0
    monitor.close()
    monitor.close()
    assert pynvml.calls["nvmlInit"] == pynvml.calls["nvmlShutdown"] == 1
    assert monitor.condition() == Condition()


def test_nothing_stays_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine())
    nvml.devices()
    nvml.cuda_driver_version()
    device_facts(uuid_of(0))
    assert pynvml.calls["nvmlInit"] == pynvml.calls["nvmlShutdown"] == 3


@pytest.mark.parametrize("as_bytes", [False, True])
def test_device_facts(monkeypatch: pytest.MonkeyPatch, as_bytes: bool) -> None:
    install(monkeypatch, machine(as_bytes=as_bytes))
    assert device_facts(uuid_of(0)) == FACTS


@pytest.mark.parametrize(
    ("call", "silent"),
    [
        ("nvmlSystemGetDriverVersion", ["driver_version"]),
        ("nvmlDeviceGetEnforcedPowerLimit", ["power_limit_w"]),
        ("nvmlDeviceGetMaxClockInfo", ["max_sm_clock_mhz", "max_memory_clock_mhz"]),
        ("nvmlDeviceGetMigMode", ["mig_mode"]),
        ("nvmlDeviceGetPersistenceMode", ["persistence_mode"]),
    ],
)
def test_facts_that_are_not_told(monkeypatch: pytest.MonkeyPatch, call: str, silent: list[str]) -> None:
    install(monkeypatch, machine(refuses={call: real.NVML_ERROR_NOT_SUPPORTED}))
    assert device_facts(uuid_of(0)) == {**FACTS, **dict.fromkeys(silent)}


class TestMig:
    INSTANCES = ("NVIDIA H200 MIG 1g.18gb", "NVIDIA H200 MIG 3g.71gb")

    @pytest.fixture(autouse=True)
    def _divided(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, machine(["NVIDIA H200"], instances=self.INSTANCES))

    def test_an_instance_has_the_clocks_of_its_board_and_memory_of_its_own(self) -> None:
        own = replace(TOLD, energy_mj=None, used_bytes=None)
        for uuid in (mig_uuid_of(1), mig_uuid_of(1).replace("MIG-", "GPU-")):  # CUDA does not say which it is
            with Monitor(uuid) as monitor:
                found = monitor.condition()
            assert replace(found, used_bytes=None) == own
            # The structure of the double counts 1 GiB as reserved.
            assert found.used_bytes == (4 << 30) - (2 << 30) - (1 << 30)
            assert device_facts(uuid) == {**FACTS, "mig_mode": "on"}

    def test_of_the_whole_board_neither_energy_nor_memory_is_told(self) -> None:
        """CUDA may name the board where an instance is measured; the neighbours' would be in both."""
        assert Monitor(uuid_of(0)).condition() == replace(TOLD, energy_mj=None, used_bytes=None)


@pytest.mark.gpu
def test_a_real_gpu_tells_its_condition() -> None:
    present = nvml.devices()
    if not present:
        pytest.skip("no NVIDIA GPU here")
    with Monitor(present[0].uuid) as monitor:
        condition = monitor.condition()
    assert condition != Condition()
    assert condition.sm_clock_mhz is None or 100 <= condition.sm_clock_mhz <= 5000
    assert condition.temperature_c is None or 0 < condition.temperature_c < 120
    assert condition.power_w is None or 0 < condition.power_w < 3000
    assert condition.used_bytes is None or 0 <= condition.used_bytes < present[0].memory_bytes
