from __future__ import annotations

import ast
import inspect
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any

import pynvml as real
import pytest
from doubles_nvml import NVMLError, machine, uuid_of

from profilers import nvml
from profilers.condition import Condition
from profilers.errors import BackendUnavailable

TOLD = Condition(
    sm_clock_mhz=1380,
    memory_clock_mhz=877,
    temperature_c=61,
    power_w=250.5,
    energy_mj=987_654_321,
    used_bytes=3 << 30,
    throttle_reasons=("power cap",),
    violation_ns=3400,
)
FACTS: dict[str, str | int | float | None] = {
    "driver_version": "580.95.05",
    "power_limit_w": 300.0,
    "max_sm_clock_mhz": 1480,
    "max_memory_clock_mhz": 977,
    "mig_mode": "on",
    "persistence_mode": "off",
}


def install(monkeypatch: pytest.MonkeyPatch, pynvml: SimpleNamespace | None) -> Any:
    monkeypatch.setitem(sys.modules, "pynvml", pynvml)
    return pynvml


def no_driver() -> SimpleNamespace:
    return machine(refuses={"nvmlInit": real.NVML_ERROR_LIBRARY_NOT_FOUND})


@pytest.mark.parametrize("as_bytes", [False, True])
def test_devices_are_described(monkeypatch: pytest.MonkeyPatch, as_bytes: bool) -> None:
    install(monkeypatch, machine(["Tesla T4", "Tesla V100-SXM2-16GB"], as_bytes=as_bytes))
    first, second = nvml.devices()
    assert (second.name, second.compute_capability, second.memory_bytes, second.index, second.uuid) == (
        "Tesla V100-SXM2-16GB",
        "7.0",
        16 << 30,
        1,
        uuid_of(1),
    )
    assert first.driver_version == "580.95.05"
    assert first.uuid_hash != second.uuid_hash and "GPU" not in first.uuid_hash


def test_a_lost_board_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine(["A", "B", "C"], lost=[1]))
    assert [device.index for device in nvml.devices()] == [0, 2]


def test_an_integrated_gpu_has_the_memory_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(nvml.os, "sysconf", pages.__getitem__)
    install(monkeypatch, machine(refuses={"nvmlDeviceGetMemoryInfo": real.NVML_ERROR_NOT_SUPPORTED}))
    assert [device.memory_bytes for device in nvml.devices()] == [4_096_000]
    install(monkeypatch, machine(refuses={"nvmlDeviceGetMemoryInfo": real.NVML_ERROR_GPU_IS_LOST}))
    assert nvml.devices() == []


@pytest.mark.parametrize(
    ("word", "index"),
    [("v100", 1), ("Tesla", 0), ("GPU-2234", 2), ("gpu-2234ABCD", 2), (uuid_of(1), 1)],
)
def test_device_is_found_by_name_or_uuid(monkeypatch: pytest.MonkeyPatch, word: str, index: int) -> None:
    install(monkeypatch, machine(["Tesla T4", "Tesla V100-SXM2-16GB", "Tesla V100-SXM2-16GB"]))
    assert nvml.find_device(word).index == index


@pytest.mark.parametrize("word", ["H100", "GPU-9", "GPU", "2234abcd", uuid_of(0) + "0"])
def test_absent_device_says_what_to_do(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    install(monkeypatch, machine(["Tesla T4", "Tesla P4"]))
    with pytest.raises(BackendUnavailable) as caught:
        nvml.find_device(word)
    line = str(caught.value)
    assert repr(word) in line and "Tesla T4, Tesla P4" in line and "\n" not in line
    commands = (
        "`spnas-hw export-workloads DIR`",
        "`python -m profilers measure DIR/manifest.json --runtime tensorrt`",
        "`spnas-hw table import FOLDER`",
    )
    places = [line.index(command) for command in commands]
    assert places == sorted(places)
    assert uuid_of(1) not in line


@pytest.mark.parametrize(
    "pynvml",
    [
        None,
        no_driver(),
        machine([]),
        machine(refuses={"nvmlDeviceGetCount": real.NVML_ERROR_NO_PERMISSION}),
    ],
)
def test_no_library_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch, pynvml: SimpleNamespace | None) -> None:
    install(monkeypatch, pynvml)
    assert nvml.devices() == []
    assert asdict(nvml.Monitor("GPU-1").condition()) == asdict(Condition())
    assert set(nvml.device_facts("GPU-1").values()) == {None}
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU.*python -m profilers measure"):
        nvml.find_device("V100")


def test_the_newest_cuda_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine())
    assert nvml.cuda_driver_version() == "13.1"
    refused = machine(refuses={"nvmlSystemGetCudaDriverVersion": real.NVML_ERROR_NOT_SUPPORTED})
    for silent in (None, no_driver(), refused):
        install(monkeypatch, silent)
        assert nvml.cuda_driver_version() is None


def test_condition_tells_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine(["Tesla T4", "Tesla V100-SXM2-16GB"]))
    with nvml.Monitor(uuid_of(1)) as monitor:
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
    assert nvml.Monitor(uuid_of(0)).condition().throttle_reasons == names


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
    monitor = nvml.Monitor(uuid_of(0))
    assert monitor.condition() == monitor.condition() == replace(TOLD, **LEFT_OUT[call])


def test_every_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine(refuses=dict.fromkeys(LEFT_OUT, real.NVML_ERROR_NOT_SUPPORTED)))
    assert nvml.Monitor(uuid_of(0)).condition() == Condition()


def test_old_drivers_know_the_reasons_by_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    refuses = {"nvmlDeviceGetCurrentClocksEventReasons": real.NVML_ERROR_FUNCTION_NOT_FOUND}
    pynvml = install(monkeypatch, machine(refuses=refuses, reasons=0x80))
    monitor = nvml.Monitor(uuid_of(0))
    assert [monitor.condition().throttle_reasons for _ in range(3)] == [("power brake",)] * 3
    assert pynvml.calls["nvmlDeviceGetCurrentClocksEventReasons"] == 1


def test_old_libraries_know_one_kind_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine(lacks=["nvmlMemory_v2"]))
    assert nvml.Monitor(uuid_of(0)).condition() == replace(TOLD, used_bytes=4 << 30)


def test_a_refused_field_falls_back_to_the_power_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine())
    refused = (real.c_nvmlFieldValue_t * 1)()
    refused[0].nvmlReturn = real.NVML_ERROR_NOT_SUPPORTED
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda handle, fields: refused)
    assert nvml.Monitor(uuid_of(0)).condition() == replace(TOLD, power_w=240.0)


@pytest.mark.parametrize(("error", "times"), zip(ERRORS, (1, 1, 3), strict=True))
def test_what_is_not_supported_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, error: int, times: int
) -> None:
    pynvml = install(monkeypatch, machine(refuses={"nvmlDeviceGetTemperature": error}))
    monitor = nvml.Monitor(uuid_of(0))
    for _ in range(3):
        monitor.condition()
    assert pynvml.calls["nvmlDeviceGetTemperature"] == times


@pytest.mark.parametrize("uuid", [None, "GPU-of-another-machine"])
def test_without_a_device_nothing_is_told(monkeypatch: pytest.MonkeyPatch, uuid: str | None) -> None:
    pynvml = install(monkeypatch, machine())
    assert nvml.Monitor(uuid).condition() == Condition()
    assert set(nvml.device_facts(uuid).values()) == {None}
    assert pynvml.calls["nvmlInit"] == pynvml.calls["nvmlShutdown"]


def test_closing_lets_go_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine())
    monitor = nvml.Monitor(uuid_of(0))
    assert pynvml.calls["nvmlShutdown"] == 0
    monitor.close()
    monitor.close()
    assert pynvml.calls["nvmlInit"] == pynvml.calls["nvmlShutdown"] == 1
    assert monitor.condition() == Condition()


def test_nothing_stays_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = install(monkeypatch, machine())
    nvml.devices()
    nvml.cuda_driver_version()
    nvml.device_facts(uuid_of(0))
    assert pynvml.calls["nvmlInit"] == pynvml.calls["nvmlShutdown"] == 3


@pytest.mark.parametrize("as_bytes", [False, True])
def test_device_facts(monkeypatch: pytest.MonkeyPatch, as_bytes: bool) -> None:
    install(monkeypatch, machine(as_bytes=as_bytes))
    assert nvml.device_facts(uuid_of(0)) == FACTS


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
    assert nvml.device_facts(uuid_of(0)) == {**FACTS, **dict.fromkeys(silent)}


def test_every_name_is_one_of_the_real_library() -> None:
    tree = ast.parse(inspect.getsource(nvml))
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pynvml"
    }
    assert {"nvmlInit", "nvmlDeviceGetViolationStatus", "NVML_FI_DEV_POWER_INSTANT"} <= names
    assert [name for name in sorted(names) if not hasattr(real, name)] == []
    assert (
        real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED).value == NVMLError(real.NVML_ERROR_NOT_SUPPORTED).value
    )


@pytest.mark.gpu
def test_a_real_gpu_tells_its_condition() -> None:
    present = nvml.devices()
    if not present:
        pytest.skip("no NVIDIA GPU here")
    with nvml.Monitor(present[0].uuid) as monitor:
        condition = monitor.condition()
    assert condition != Condition()
    assert condition.sm_clock_mhz is None or 100 <= condition.sm_clock_mhz <= 5000
    assert condition.temperature_c is None or 0 < condition.temperature_c < 120
    assert condition.power_w is None or 0 < condition.power_w < 3000
    assert condition.used_bytes is None or 0 <= condition.used_bytes < present[0].memory_bytes
