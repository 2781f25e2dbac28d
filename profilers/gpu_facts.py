"""What a table should know of a GPU: never which board it is, only whether it is the same one."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

from profilers.environment import package_version
from profilers.monitor import device_facts
from profilers.nvml import cuda_driver_version, uuid_hash

Fact = str | int | float | None


def gpu_facts(name: str, uuid: str | None, compute_capability: str | None) -> dict[str, Fact]:
    """Facts that stay the same from one process to the next, until somebody changes something."""
    return {
        "device": name,
        "compute_capability": compute_capability,
        "cuda_driver": cuda_driver_version(),
        "uuid_hash": None if uuid is None else uuid_hash(uuid),
        **device_facts(uuid),
        **tegra_facts(),
    }


def tegra_facts(root: Path = Path("/")) -> dict[str, Fact]:
    """Power mode and bounds of the GPU's clock of a Jetson, of which NVML tells nothing; none elsewhere.

    `nvpmodel` sets the mode and the upper bound, `jetson_clocks` raises the lower one.
    """
    facts: dict[str, Fact] = {}
    if mode := re.search(r"pmode:\s*(\S+)", _content(root / "var/lib/nvpmodel/status")):
        facts["nvpmodel_mode"] = mode[1]
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        # 17000000.gpu, or 17000000.ga10b and gv11b and gp10b before it; gpu-gpc-0 since.
        if not re.search(r"gpu|\.g[apv]\d\db$", folder.name):
            continue
        for bound in ("max", "min"):
            if (hertz := _content(folder / f"{bound}_freq").strip()).isdigit():
                facts.setdefault(f"gpu_{bound}_clock_mhz", int(hertz) // 1_000_000)
    return facts


def tensorrt_version() -> str | None:
    """Of the TensorRT that a program finds which links to its library; None where there is none."""
    for major in (10, 11, 8):
        try:
            number = int(ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion())
        except (OSError, AttributeError):
            continue
        base = 10_000 if major > 8 else 1_000
        return f"{number // base}.{number % base // 100}.{number % 100}"
    names = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
    return next((version for name in names if (version := package_version(name))), None)


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
