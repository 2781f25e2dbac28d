"""What this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from dataclasses import dataclass

from profilers.nvml import devices
from spnas_hw import remedies


@dataclass(frozen=True)
class Finding:
    """One thing looked for. What is `optional` may be missing without harm to the rest."""

    what: str
    found: str
    ok: bool
    remedy: str
    optional: bool = False


PACKAGES = (
    ("onnx", "onnx", "pip install onnx", False),
    ("onnxruntime", "onnxruntime", "pip install 'spnas-hw[cpu]'", False),
    ("torch", "torch", "make setup, or pip install torch", False),
    ("mmengine", "onedl-mmengine", "pip install onedl-mmengine", False),
    ("mmdet", "onedl-mmdetection", "pip install onedl-mmdetection", False),
    ("faster_coco_eval", "faster-coco-eval", "pip install faster-coco-eval", False),
    ("safetensors", "safetensors", "pip install safetensors", False),
    ("matplotlib", "matplotlib", "pip install 'spnas-hw[report]'", True),
    ("tensorrt_rtx", "tensorrt-rtx-cu13", "pip install 'spnas-hw[rtx]'", True),
    ("tensorrt", "tensorrt", "pip install tensorrt, on a machine with an NVIDIA GPU", True),
)


def examine() -> list[Finding]:
    """Everything worth knowing before the first command."""
    version = platform.python_version()
    findings = [Finding("python", version, sys.version_info >= (3, 10), "use Python 3.10 or newer")]
    findings += [_package(*package) for package in PACKAGES]
    findings.insert(4, _mmcv())
    gpus = ", ".join(device.name for device in devices())
    findings.append(
        Finding("GPU", gpus or "none", bool(gpus), "none is needed to search on the CPU", optional=True)
    )
    return findings


def _package(module: str, distribution: str, remedy: str, optional: bool) -> Finding:
    present = importlib.util.find_spec(module) is not None
    try:
        found = importlib.metadata.version(distribution) if present else "missing"
    except importlib.metadata.PackageNotFoundError:
        found = "present, of another distribution"
    return Finding(module, found, present, remedy, optional)


def _mmcv() -> Finding:
    """mmcv installs without its compiled operators, silently, where it finds no torch."""
    finding = _package("mmcv", "onedl-mmcv", remedies.MMCV, False)
    try:
        compiled = importlib.util.find_spec("mmcv._ext") is not None
    except ImportError:  # looking inside imports mmcv, which imports mmengine
        return Finding("mmcv", f"{finding.found}, does not import", False, remedies.DETECTION)
    if finding.ok and not compiled:
        return Finding("mmcv", f"{finding.found}, without its compiled operators", False, remedies.MMCV)
    return finding
