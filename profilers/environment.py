"""Facts about the machine for the provenance of a table: never names of hosts or users, never paths."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model name; its architecture (`x86_64`, `aarch64`) where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.lower().startswith("model name"))
    return " ".join(next(named, "").split()) or platform.machine() or "unknown cpu"


def cpu_count() -> int:
    """Logical processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def package_version(name: str) -> str | None:
    """Version of an installed distribution; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def machine_facts() -> dict[str, str | int | float | None]:
    """What is true of any run on this machine, whatever the backend."""
    return {
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "onnx": package_version("onnx"),
        "numpy": package_version("numpy"),
    }
