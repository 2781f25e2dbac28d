"""What this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from profilers.compatibility import Package, install_line, misfits
from profilers.nvml import GpuDevice, cuda_driver_version, devices
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
    ("torch", "torch", "make setup, or pip install torch", False),
    ("mmengine", "onedl-mmengine", "pip install onedl-mmengine", False),
    ("mmdet", "onedl-mmdetection", "pip install onedl-mmdetection", False),
    ("faster_coco_eval", "faster-coco-eval", "pip install faster-coco-eval", False),
    ("safetensors", "safetensors", "pip install safetensors", False),
    ("matplotlib", "matplotlib", "pip install matplotlib", True),
    ("pynvml", "nvidia-ml-py", "pip install nvidia-ml-py", True),
)
"""Module, distribution, what installs it, whether it is optional."""

RUNTIMES = (
    ("tensorrt", "tensorrt", "pip install tensorrt, on a machine with an NVIDIA GPU"),
    ("tensorrt_rtx", "tensorrt-rtx", "pip install tensorrt-rtx-cu13"),
    ("cuda.bindings", "cuda-bindings", "pip install cuda-bindings, on a machine with an NVIDIA GPU"),
)
"""Module, name in profilers.compatibility, what installs it where there is no GPU to install it for."""

DISTRIBUTIONS = {
    "tensorrt": ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt-bindings", "tensorrt"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx"),
    "onnxruntime-gpu": ("onnxruntime-gpu",),
    "torch": ("torch",),
    "cuda-bindings": ("cuda-bindings",),
    "nvidia-cudnn-cu12": ("nvidia-cudnn-cu12",),
}
"""Name in profilers.compatibility -> the distributions that may bring it; the first that is there counts."""

JETSON_RELEASE = Path("/etc/nv_tegra_release")


def examine() -> list[Finding]:
    """Everything worth knowing before the first command. Imports ONNX Runtime and, to look inside, mmcv."""
    version = platform.python_version()
    gpus, installed = devices(), _installed()
    findings = [Finding("python", version, sys.version_info >= (3, 10), "use Python 3.10 or newer")]
    findings += [_package(*package) for package in PACKAGES]
    findings.insert(3, _mmcv())
    findings.append(_onnxruntime(gpus))
    findings += [_runtime(*runtime, installed, gpus) for runtime in RUNTIMES]
    return findings + _gpus(gpus) + _advice(gpus, installed)


def _package(module: str, distribution: str, remedy: str, optional: bool) -> Finding:
    present = _present(module)
    found = (_version(distribution) or "present, of another distribution") if present else "missing"
    if module == "torch" and present and (cuda := _torch_cuda()):
        found += f", CUDA {cuda}"
    return Finding(module, found, present, remedy, optional)


def _mmcv() -> Finding:
    """mmcv installs without its compiled operators, silently, where it finds no torch."""
    finding = _package("mmcv", "onedl-mmcv", remedies.MMCV, False)
    try:
        compiled = importlib.util.find_spec("mmcv._ext") is not None
    except Exception:  # looking inside imports mmcv, which imports mmengine
        return Finding("mmcv", f"{finding.found}, does not import", False, remedies.DETECTION)
    if finding.ok and not compiled:
        return Finding("mmcv", f"{finding.found}, without its compiled operators", False, remedies.MMCV)
    return finding


def _onnxruntime(gpus: Sequence[GpuDevice]) -> Finding:
    """Two distributions bring the same module; only one of them has providers for a GPU."""
    what, remedy = "onnxruntime", "pip install onnxruntime"
    if gpus:
        remedy = _install("onnxruntime-gpu", gpus[0])
    if not _present(what):
        return Finding(what, "missing", False, remedy)
    versions = {name: version for name in (what, "onnxruntime-gpu") if (version := _version(name))}
    found = " and ".join(f"{name} {version}" for name, version in versions.items()) or "present"
    if len(versions) == 2:
        remedy = f"pip uninstall -y onnxruntime onnxruntime-gpu && {remedy}"
        return Finding(what, f"{found}, which overwrite each other", False, remedy, optional=True)
    try:
        import onnxruntime

        names = onnxruntime.get_available_providers()
    except Exception as error:  # a broken one raises anything
        return Finding(what, f"{found}, does not import: {_first_line(error)}", False, remedy)
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in names)
    return Finding(what, f"{found}, execution providers {providers}", True, "")


def _runtime(
    module: str, name: str, remedy: str, installed: dict[str, Package], gpus: Sequence[GpuDevice]
) -> Finding:
    if not _present(module):
        return Finding(module, "missing", False, _install(name, gpus[0]) if gpus else remedy, optional=True)
    package = installed.get(name)
    if package is None:
        return Finding(module, "present, of another distribution", True, "", optional=True)
    built = f", CUDA {package.cuda}" if package.cuda else ""
    return Finding(module, package.version + built, True, "", optional=True)


def _gpus(gpus: Sequence[GpuDevice]) -> list[Finding]:
    cuda = cuda_driver_version()
    findings = [
        Finding(
            f"GPU {gpu.index}",
            f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.0f} GiB, "
            f"driver {gpu.driver_version}, CUDA {cuda or 'not told'}",
            True,
            "",
            optional=True,
        )
        for gpu in gpus
    ]
    if findings:
        return findings
    if JETSON_RELEASE.exists():
        remedy = "TensorRT comes with JetPack: sudo apt install nvidia-jetpack"
        return [Finding("GPU", "a Jetson's, which NVML does not list", False, remedy, optional=True)]
    return [Finding("GPU", "none", False, "none is needed to search on the CPU", optional=True)]


def _advice(gpus: Sequence[GpuDevice], installed: dict[str, Package]) -> list[Finding]:
    """What is installed and does not run on a GPU, once for all GPUs of a kind."""
    kinds = {(gpu.name, gpu.compute_capability): gpu.driver_version for gpu in gpus}
    return [
        Finding(f"{bad.package} {bad.version}", f"{name}: {bad.reason}", False, bad.remedy, optional=True)
        for (name, capability), driver in kinds.items()
        for bad in misfits(capability, driver, platform.python_version(), installed)
    ]


def _install(name: str, gpu: GpuDevice) -> str:
    return install_line(name, gpu.compute_capability, gpu.driver_version, platform.python_version())


def _installed() -> dict[str, Package]:
    """From the metadata alone: no runtime is imported."""
    found = {}
    for name, distributions in DISTRIBUTIONS.items():
        versions = ((distribution, _version(distribution)) for distribution in distributions)
        for distribution, version in versions:
            if version is not None:
                found[name] = Package(version, _cuda(distribution))
                break
    return found


def _cuda(distribution: str) -> str | None:
    """The CUDA that a distribution was built for, as its name or its requirements tell."""
    if distribution == "torch":
        return _torch_cuda()
    named = re.search(r"-cu(\d+)", distribution)
    if named:
        return named[1]
    return next(_matches(r"nvidia-cuda-runtime[-a-z0-9]*\s*[~=]=\s*(\d+)", _requirements(distribution)), None)


def _torch_cuda() -> str | None:
    """Read, not imported: that takes seconds. None: built for the CPU, or not to be read."""
    try:
        spec = importlib.util.find_spec("torch")
        assert spec is not None and spec.origin is not None
        lines = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8").splitlines()
    except Exception:
        return None
    return next(_matches(r"cuda\b[^=]*=\s*'([\d.]+)'", lines), None)


def _matches(pattern: str, lines: Iterable[str]) -> Iterator[str]:
    return (match[1] for line in lines if (match := re.match(pattern, line)))


def _present(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except Exception:  # of a submodule this imports the package, which may be missing or broken
        return False


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution) or None
    except Exception:  # absent, or its metadata is damaged
        return None


def _requirements(distribution: str) -> list[str]:
    try:
        return importlib.metadata.requires(distribution) or []
    except Exception:
        return []


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
