from __future__ import annotations

import getpass
import platform
from pathlib import Path

from profilers.environment import cpu_count, cpu_name, machine_facts, package_version


def test_cpu_name_is_the_systems(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast  CPU @ 1GHz\nmodel name\t: other\n")
    assert cpu_name(tmp_path / "cpuinfo") == "Fast CPU @ 1GHz"


def test_cpu_without_a_name_is_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\n")
    assert cpu_name(tmp_path / "cpuinfo") == cpu_name(tmp_path / "missing") == platform.machine()


def test_there_is_a_cpu() -> None:
    assert cpu_count() >= 1


def test_versions() -> None:
    assert package_version("numpy") is not None
    assert package_version("no-such-distribution") is None


def test_facts_name_no_host_and_no_path() -> None:
    for value in machine_facts().values():
        assert platform.node() == "" or platform.node() not in str(value)
        assert "/" not in str(value)
    assert getpass.getuser() == "root" or getpass.getuser() not in str(machine_facts())
