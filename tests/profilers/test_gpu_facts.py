from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from doubles_nvml import machine, uuid_of

from profilers import gpu_facts as module
from profilers.gpu_facts import gpu_facts, tegra_facts, tensorrt_version


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def orin(root: Path, mode: str = "0002", max_hertz: int = 918_000_000) -> Path:
    write(root / "var/lib/nvpmodel/status", f"pmode:{mode}\n")
    for name, hertz in (("17000000.gpu", max_hertz), ("13e40000.nvenc", 1)):
        write(root / f"sys/class/devfreq/{name}/max_freq", f"{hertz}\n")
        write(root / f"sys/class/devfreq/{name}/min_freq", "306000000\n")
    return root


class TestTegra:
    def test_power_mode_and_bounds_of_the_clock(self, tmp_path: Path) -> None:
        assert tegra_facts(orin(tmp_path)) == {
            "nvpmodel_mode": "0002",
            "gpu_max_clock_mhz": 918,
            "gpu_min_clock_mhz": 306,
        }

    @pytest.mark.parametrize("name", ["17000000.ga10b", "17000000.gv11b", "17000000.gp10b", "gpu-gpc-0"])
    def test_names_of_the_gpu(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / f"sys/class/devfreq/{name}/max_freq", "1300500000")
        assert tegra_facts(tmp_path) == {"gpu_max_clock_mhz": 1300}

    def test_elsewhere_there_are_none(self, tmp_path: Path) -> None:
        assert tegra_facts(tmp_path) == {}


class TestFacts:
    def test_what_nvml_tells_is_there_and_the_uuid_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", machine())
        facts = gpu_facts("Tesla V100", uuid_of(0), "7.0")
        assert (facts["device"], facts["compute_capability"], facts["cuda_driver"]) == (
            "Tesla V100",
            "7.0",
            "13.1",
        )
        assert (facts["power_limit_w"], facts["max_sm_clock_mhz"], facts["driver_version"]) == (
            300.0,
            1480,
            "580.95.05",
        )
        assert (facts["mig_mode"], facts["persistence_mode"]) == ("off", "off")
        assert facts["uuid_hash"] != gpu_facts("Tesla V100", uuid_of(1), "7.0")["uuid_hash"]
        assert not any(uuid_of(0)[4:] in str(fact) for fact in facts.values())

    def test_another_power_mode_is_another_fact(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", None)
        found = []
        for mode, hertz in (("0000", 1_300_500_000), ("0002", 918_000_000)):
            root = orin(tmp_path / mode, mode, hertz)
            monkeypatch.setattr(module, "tegra_facts", lambda root=root: tegra_facts(root))
            found.append(gpu_facts("Orin", None, "8.7"))
        assert found[0] != found[1] and found[0]["nvpmodel_mode"] == "0000"


class TestTensorrtVersion:
    @pytest.mark.parametrize(
        ("library", "number", "version"),
        [
            ("libnvinfer.so.10", 100_413, "10.4.13"),
            ("libnvinfer.so.11", 110_400, "11.4.0"),
            ("libnvinfer.so.8", 8_601, "8.6.1"),
        ],
    )
    def test_of_the_library(
        self, monkeypatch: pytest.MonkeyPatch, library: str, number: int, version: str
    ) -> None:
        def load(name: str) -> SimpleNamespace:
            if name != library:
                raise OSError(name)
            return SimpleNamespace(getInferLibVersion=lambda: number)

        monkeypatch.setattr(ctypes, "CDLL", load)
        assert tensorrt_version() == version

    def test_else_of_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(name: str) -> SimpleNamespace:
            raise OSError(name)

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(module, "package_version", {"tensorrt-cu12": "10.4.0"}.get)
        assert tensorrt_version() == "10.4.0"
        monkeypatch.setattr(module, "package_version", lambda name: None)
        assert tensorrt_version() is None
