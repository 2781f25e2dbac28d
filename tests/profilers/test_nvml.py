from __future__ import annotations

import ast
import inspect
import sys
from types import SimpleNamespace
from typing import Any

import pynvml as real
import pytest
from doubles_nvml import NVMLError, machine, mig_uuid_of, uuid_of

from profilers import monitor, nvml
from profilers.errors import BackendUnavailable


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


@pytest.mark.parametrize(
    ("present", "word", "name"),
    [
        (["NVIDIA A100-SXM4-40GB", "NVIDIA A10"], "A10", "NVIDIA A10"),
        (["NVIDIA A10G", "NVIDIA A10"], "a10", "NVIDIA A10"),
        (["NVIDIA L40S", "NVIDIA L4"], "L4", "NVIDIA L4"),
        (["Tesla T400", "Tesla T4"], "T4", "Tesla T4"),
        (["NVIDIA A100-SXM4-40GB", "NVIDIA A10G"], "A10", "NVIDIA A10G"),
        (["NVIDIA L4", "NVIDIA L40S"], "L40", "NVIDIA L40S"),
        (["Tesla T4", "Tesla V100-SXM2-16GB"], "sxm", "Tesla V100-SXM2-16GB"),
        (["NVIDIA GeForce RTX 4090"], "rtx 4090", "NVIDIA GeForce RTX 4090"),
    ],
)
def test_a_word_is_no_part_of_another(
    monkeypatch: pytest.MonkeyPatch, present: list[str], word: str, name: str
) -> None:
    install(monkeypatch, machine(present))
    assert nvml.find_device(word).name == name


@pytest.mark.parametrize(("present", "word"), [("NVIDIA A100", "A10"), ("NVIDIA H200", "20"), ("T400", "T4")])
def test_part_of_a_number_is_another_number(monkeypatch: pytest.MonkeyPatch, present: str, word: str) -> None:
    install(monkeypatch, machine([present]))
    with pytest.raises(BackendUnavailable, match=f"present: {present}"):
        nvml.find_device(word)


INSTANCES = ("NVIDIA H200 MIG 1g.18gb", "NVIDIA H200 MIG 3g.71gb")


class TestMig:
    def test_a_divided_gpu_is_its_instances(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, machine(["NVIDIA H200", "Tesla T4"], instances=INSTANCES))
        found = nvml.devices()
        assert [device.name for device in found] == [*INSTANCES, "Tesla T4"]
        assert [device.uuid for device in found] == [mig_uuid_of(0), mig_uuid_of(1), uuid_of(1)]
        assert [device.memory_bytes >> 30 for device in found] == [4, 4, 16]
        assert len({device.uuid_hash for device in found}) == 3

    @pytest.mark.parametrize(
        ("word", "name"), [("H200", INSTANCES[0]), ("3g.71gb", INSTANCES[1]), ("mig-1fed", INSTANCES[1])]
    )
    def test_an_instance_is_found(self, monkeypatch: pytest.MonkeyPatch, word: str, name: str) -> None:
        install(monkeypatch, machine(["NVIDIA H200"], instances=INSTANCES))
        assert nvml.find_device(word).name == name

    def test_without_instances_it_is_listed_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, machine(["NVIDIA H200"], instances=()))
        assert [device.name for device in nvml.devices()] == ["NVIDIA H200"]

    def test_old_libraries_know_no_mig(self, monkeypatch: pytest.MonkeyPatch) -> None:
        install(monkeypatch, machine(lacks=["nvmlDeviceGetMigMode"]))
        assert len(nvml.devices()) == 1


def test_a_hash_is_that_of_the_board_whoever_tells_the_uuid() -> None:
    hashes = {nvml.uuid_hash(uuid) for uuid in ("MIG-ab12", "GPU-AB12", "GPU-ab12")}
    assert len(hashes) == 1 and nvml.uuid_hash("GPU-ab13") not in hashes


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
    with pytest.raises(BackendUnavailable, match=r"no NVIDIA GPU.*python -m profilers measure"):
        nvml.find_device("V100")


def test_the_newest_cuda_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, machine())
    assert nvml.cuda_driver_version() == "13.1"
    refused = machine(refuses={"nvmlSystemGetCudaDriverVersion": real.NVML_ERROR_NOT_SUPPORTED})
    for silent in (None, no_driver(), refused):
        install(monkeypatch, silent)
        assert nvml.cuda_driver_version() is None


def test_every_name_is_one_of_the_real_library() -> None:
    trees = [ast.parse(inspect.getsource(module)) for module in (nvml, monitor)]
    names = {
        node.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pynvml"
    }
    assert {"nvmlInit", "nvmlDeviceGetViolationStatus", "NVML_FI_DEV_POWER_INSTANT"} <= names
    assert [name for name in sorted(names) if not hasattr(real, name)] == []
    assert (
        real.NVMLError(real.NVML_ERROR_NOT_SUPPORTED).value == NVMLError(real.NVML_ERROR_NOT_SUPPORTED).value
    )
