"""Which releases of the runtimes run on which GPUs, and the command that installs one that does.

Facts and advice only: nothing here looks at the machine. What no row speaks of is taken to fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Version: TypeAlias = tuple[int, ...]
Capability: TypeAlias = tuple[int, int]

ANY: tuple[Capability, Capability] = ((0, 0), (99, 9))
BEFORE_TURING: tuple[Capability, Capability] = ((5, 0), (7, 2))
BLACKWELL: tuple[Capability, Capability] = ((10, 0), (12, 1))

JETSON: tuple[Capability, ...] = ((5, 3), (6, 2), (7, 2), (8, 7), (11, 0))
"""Nano, TX2, Xavier, Orin, Thor (developer.nvidia.com/cuda-gpus). Their TensorRT comes with JetPack."""


@dataclass(frozen=True)
class Package:
    """What is installed of one runtime; None: not known."""

    version: str
    cuda: str | None = None  # it was built for, "12" or "12.6"
    architectures: tuple[str, ...] | None = None  # it has kernels for, "sm_75" or, as PTX, "compute_90"


@dataclass(frozen=True)
class Misfit:
    """A package that does not run on a GPU."""

    package: str
    version: str
    reason: str
    remedy: str  # a command, or what to do where there is none


@dataclass(frozen=True)
class Gap:
    """Releases of a package, or builds of it for a CUDA, that do not run on some GPUs."""

    package: str
    gpus: tuple[Capability, Capability]  # first and last compute capability
    first: str | None  # such release; None: from the very first
    ended: str | None  # the first release that runs again; None: to the last
    source: str
    cuda: str | None = None  # only of builds for this CUDA


_RTX = "TensorRT-RTX support matrices 1.0 to 1.5: 7.5, 8.6, 8.9, 12.0, and 12.1 from 1.5"
_WHEELS = "architectures read from the Linux wheels of PyPI"
_TORCH = "PyTorch RELEASE.md, CUDA support matrix; pytorch#157517, #172352, #175253"

RELEASE_GAPS = (
    Gap("tensorrt", ((5, 0), (6, 2)), "10", None, "TensorRT 10.1 support matrix: SM 7.0 or higher"),
    Gap("tensorrt", ((7, 0), (7, 0)), "10.5", None, "TensorRT 10.5.0 release notes: Volta removed"),
    Gap("tensorrt", ((8, 7), (8, 7)), "11", "11.4.1", "TensorRT 11.2.1 to 11.4.1, Jetson migration"),
    Gap("tensorrt", BLACKWELL, None, "10.8", "TensorRT 10.8.0 release notes: first with Blackwell"),
    Gap("tensorrt-rtx", BEFORE_TURING, None, None, _RTX),
    Gap("tensorrt-rtx", ((8, 0), (8, 0)), None, None, _RTX),
    Gap("tensorrt-rtx", ((8, 7), (8, 7)), None, None, _RTX),
    Gap("tensorrt-rtx", ((9, 0), (11, 0)), None, None, _RTX),
    Gap("tensorrt-rtx", ((12, 1), (12, 1)), None, "1.5", _RTX),
    Gap("onnxruntime-gpu", ((10, 0), (11, 0)), "1.29", None, f"onnxruntime#31992; {_WHEELS} 1.29.0, 1.31.1"),
    Gap("nvidia-cudnn-cu12", BEFORE_TURING, "9.11", None, "cuDNN support matrices 9.10.0 against 9.11.0"),
    Gap("torch", ((7, 0), (7, 0)), None, "2.8", _TORCH, cuda="12.8"),
    Gap("torch", ((7, 0), (7, 0)), "2.11", None, _TORCH, cuda="12.8"),
)

CUDA_GAPS = (
    Gap("torch", ((5, 0), (6, 2)), "12.8", None, _TORCH),
    Gap("torch", BLACKWELL, None, "12.8", _TORCH),
    *(
        Gap(package, BEFORE_TURING, "13", None, "CUDA 13.0 release notes: Maxwell, Pascal, Volta removed")
        for package in ("tensorrt", "tensorrt-rtx", "onnxruntime-gpu", "torch", "cuda-bindings")
    ),
)
"""As RELEASE_GAPS, but `first` and `ended` are versions of the CUDA that the package was built for."""

OLDEST_DRIVER = {13: "580", 12: "525"}
"""CUDA -> driver; source: NVIDIA, CUDA compatibility, minor version compatibility."""

ORT_CUDA = (("1.27", "13"), ("1.19", "12"))
"""From this release on, onnxruntime-gpu on PyPI is built for this CUDA; source: the wheels' requirements."""

ORT_WITH_TENSORRT_10 = ("1.22", "1.32")
"""From, before: onnxruntime-gpu that loads libnvinfer.so.10; source: the wheels 1.22.0 to 1.31.1."""


@dataclass(frozen=True)
class Install:
    """A command that installs a release that fits."""

    package: str
    gpus: tuple[Capability, Capability]
    cuda: int  # it is built for
    command: str
    python_before: str | None = None  # there are no wheels from this Python on


_TORCH_INDEX = "--index-url https://download.pytorch.org/whl"

INSTALLS = (  # the first that matches
    Install(
        "tensorrt",
        ((5, 0), (6, 2)),
        12,
        "pip install tensorrt==8.6.1 --extra-index-url https://pypi.nvidia.com",
        python_before="3.12",
    ),
    Install("tensorrt", ((7, 0), (7, 0)), 12, "pip install tensorrt-cu12==10.4.0", python_before="3.13"),
    Install("tensorrt", ANY, 12, "pip install --upgrade tensorrt-cu12"),
    Install("tensorrt", ANY, 13, "pip install --upgrade tensorrt-cu13"),
    Install("tensorrt-rtx", ANY, 12, "pip install --upgrade tensorrt-rtx-cu12"),
    Install("tensorrt-rtx", ANY, 13, "pip install --upgrade tensorrt-rtx-cu13"),
    # Up to 1.26.0 the wheels hold kernels for 6.0 and 7.0, which need an older cuDNN.
    Install(
        "onnxruntime-gpu", BEFORE_TURING, 12, "pip install 'onnxruntime-gpu<1.27' 'nvidia-cudnn-cu12<9.11'"
    ),
    Install("onnxruntime-gpu", ANY, 12, "pip install 'onnxruntime-gpu<1.27'"),
    Install("onnxruntime-gpu", ((10, 0), (11, 0)), 13, "pip install onnxruntime-gpu==1.27.0"),
    Install("onnxruntime-gpu", ANY, 13, "pip install onnxruntime-gpu"),
    # pip takes an installed torch of the same version, whatever its CUDA, for good enough. cu126 ends at 2.14
    # (pytorch#190385), cu128 at 2.11 (pytorch#182849).
    Install("torch", BLACKWELL, 12, f"pip install --force-reinstall 'torch<2.12' {_TORCH_INDEX}/cu128"),
    Install("torch", ANY, 12, f"pip install --force-reinstall 'torch<2.15' {_TORCH_INDEX}/cu126"),
    Install("torch", ANY, 13, f"pip install --force-reinstall torch {_TORCH_INDEX}/cu130"),
    Install("cuda-bindings", ANY, 12, "pip install 'cuda-bindings<13'"),
    Install("cuda-bindings", ANY, 13, "pip install cuda-bindings"),
    Install("nvidia-cudnn-cu12", BEFORE_TURING, 12, "pip install 'nvidia-cudnn-cu12<9.11'"),
)


def misfits(
    compute_capability: str, driver: str | None, python: str, installed: Mapping[str, Package]
) -> list[Misfit]:
    """What of the installed packages does not run on a GPU, each with what to do about it.

    Args:
        compute_capability: of the GPU, "7.0".
        driver: its version; None: not known.
        python: version of Python.
        installed: by name: tensorrt, tensorrt-rtx, onnxruntime-gpu, torch, cuda-bindings, nvidia-cudnn-cu12.
    """
    found = []
    for name, package in installed.items():
        reason = _unsupported(name, package, compute_capability)
        if reason is not None:
            remedy = _replacement(name, package, compute_capability, driver, python)
            found.append(Misfit(name, package.version, reason, remedy))
            continue
        cuda = (version_of(_cuda(name, package) or "") or (0,))[0]
        oldest = OLDEST_DRIVER.get(cuda)
        if oldest and driver is not None and version_of(driver) < version_of(oldest):
            remedy = f"update the driver to {oldest} or newer"
            if cuda == max(OLDEST_DRIVER):
                remedy += f", or {_replacement(name, package, compute_capability, driver, python)}"
            reason = f"built for CUDA {cuda}, which needs driver {oldest} or newer, not {driver}"
            found.append(Misfit(name, package.version, reason, remedy))
    return found + _mismatched_tensorrt(installed)


def install_line(package: str, compute_capability: str, driver: str | None, python: str) -> str:
    """The command that installs a release that runs on a GPU; what to do instead where there is none.

    Args: as for `misfits`; `package` is one of the names in `installed`.
    """
    gpu = _capability(compute_capability)
    if package == "tensorrt" and gpu in JETSON:
        return "sudo apt install nvidia-jetpack"
    if any(_hopeless(gap) for gap in RELEASE_GAPS if gap.package == package and _covers(gap.gpus, gpu)):
        return f"use --runtime tensorrt: {install_line('tensorrt', compute_capability, driver, python)}"
    old_driver = driver is not None and version_of(driver) < version_of(OLDEST_DRIVER[13])
    cuda = 12 if old_driver or gpu <= BEFORE_TURING[1] else 13
    fitting = (row for row in INSTALLS if row.package == package and row.cuda == cuda)
    install = next(row for row in fitting if _covers(row.gpus, gpu))
    if install.python_before and version_of(python) >= version_of(install.python_before):
        return f"{install.command} (in a Python before {install.python_before})"
    return install.command


def version_of(text: str) -> Version:
    """The numbers a version starts with: "10.14.1.48.post1" -> (10, 14, 1, 48); () where there are none."""
    numbers = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in numbers[0].split(".")) if numbers else ()


def _unsupported(name: str, package: Package, compute_capability: str) -> str | None:
    """Why the package does not run on the GPU; None where it does, or nothing is known."""
    gpu, cuda = _capability(compute_capability), _cuda(name, package)
    if package.architectures is not None:
        runs = any(_runs(architecture, gpu) for architecture in package.architectures)
        return None if runs else f"it has no kernels for compute capability {compute_capability}"
    for gap in RELEASE_GAPS:
        concerned = gap.package == name and gap.cuda in (None, cuda) and _covers(gap.gpus, gpu)
        if concerned and _within(gap, package.version):
            build = f"built for CUDA {gap.cuda}: " if gap.cuda else ""
            return build + _why(gap, compute_capability, "a release")
    for gap in CUDA_GAPS:
        if gap.package == name and cuda and _covers(gap.gpus, gpu) and _within(gap, cuda):
            return f"built for CUDA {cuda}: " + _why(gap, compute_capability, "a build for CUDA")
    return None


def _why(gap: Gap, compute_capability: str, what: str) -> str:
    if _hopeless(gap):
        return f"no release runs on compute capability {compute_capability}"
    before = f"before {gap.first}" if gap.first else None
    since = f"from {gap.ended} on" if gap.ended else None
    wanted = " or ".join(filter(None, (before, since)))
    return f"compute capability {compute_capability} needs {what} {wanted}"


def _replacement(
    name: str, package: Package, compute_capability: str, driver: str | None, python: str
) -> str:
    """As `install_line`; what is installed must go first where both would write the same files."""
    line = install_line(name, compute_capability, driver, python)
    built = f"{name}-cu{(package.cuda or '').split('.')[0]}"
    clash = name in ("tensorrt", "tensorrt-rtx") and package.cuda and not line.startswith("use")
    if not clash or built in line:
        return line
    return f"pip uninstall -y {name} {built} {built}-bindings {built}-libs && {line}"


def _mismatched_tensorrt(installed: Mapping[str, Package]) -> list[Misfit]:
    ort, tensorrt = installed.get("onnxruntime-gpu"), installed.get("tensorrt")
    since, before = (version_of(text) for text in ORT_WITH_TENSORRT_10)
    if ort is None or tensorrt is None or version_of(tensorrt.version) < (11,):
        return []
    if not since <= version_of(ort.version) < before:
        return []
    reason = f"its TensorRT provider loads TensorRT 10, not {tensorrt.version}"
    cuda = (_cuda("onnxruntime-gpu", ort) or "").split(".")[0]
    remedy = f"use --runtime tensorrt, or pip install 'tensorrt-cu{cuda}<11'"
    return [Misfit("onnxruntime-gpu", ort.version, reason, remedy)]


def _cuda(name: str, package: Package) -> str | None:
    """The CUDA that the package was built for."""
    if package.cuda is not None or name not in ("onnxruntime-gpu", "cuda-bindings"):
        return package.cuda
    if name == "cuda-bindings":
        return package.version
    release = version_of(package.version)
    return next((cuda for since, cuda in ORT_CUDA if release >= version_of(since)), None)


def _runs(architecture: str, gpu: Capability) -> bool:
    """Code for "sm_90" runs on 9.x from 9.0 on, PTX on all from there on, "sm_90a" on 9.0 alone."""
    parts = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", architecture)
    if parts is None:
        return False
    kind, built, suffix = parts[1], (int(parts[2]), int(parts[3])), parts[4]
    if suffix == "a":
        return built == gpu
    return built <= gpu and (built[0] == gpu[0] or (kind == "compute" and not suffix))


def _within(gap: Gap, version: str) -> bool:
    numbers = version_of(version)
    started = gap.first is None or numbers >= version_of(gap.first)
    return bool(numbers) and started and (gap.ended is None or numbers < version_of(gap.ended))


def _hopeless(gap: Gap) -> bool:
    return gap.first is None and gap.ended is None


def _covers(gpus: tuple[Capability, Capability], gpu: Capability) -> bool:
    return gpus[0] <= gpu <= gpus[1]


def _capability(text: str) -> Capability:
    major, _, minor = text.partition(".")
    return int(major), int(minor)
