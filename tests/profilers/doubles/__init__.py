"""Doubles of the libraries that need a GPU, so that backends run whole on a machine without one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from . import rtx, tensorrt
from .build import Built
from .cuda import CudaRuntime
from .gpu import Gpu

VERSIONS = {"tensorrt": tuple(tensorrt.VERSIONS), "tensorrt-rtx": (rtx.VERSION,)}
"""Runtimes that have a double, with the versions there are."""


@dataclass
class Installed:
    """What stands where the libraries would be. Change `faults` to make things go wrong."""

    gpu: Gpu
    trt: Any

    @property
    def faults(self) -> tensorrt.Faults:
        found: tensorrt.Faults = self.trt.double.faults
        return found

    @property
    def builds(self) -> list[Built]:
        found: list[Built] = self.trt.double.builds
        return found


def install(
    monkeypatch: pytest.MonkeyPatch, runtime_name: str, version: str | None = None, gpu: Gpu | None = None
) -> Installed:
    """Put doubles in the place of all that a runtime needs, until the end of the test.

    Args:
        runtime_name: as in `--runtime`: tensorrt or tensorrt-rtx.
        version: one of VERSIONS; None: the newest.
        gpu: the machine; None: one with a device of compute capability 8.6.
    """
    gpu = install_cuda(monkeypatch, gpu)
    if runtime_name == "tensorrt":
        return Installed(gpu, install_tensorrt(monkeypatch, version or VERSIONS["tensorrt"][-1], gpu))
    assert runtime_name == "tensorrt-rtx"
    return Installed(gpu, install_tensorrt_rtx(monkeypatch, gpu))


def install_cuda(monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None = None) -> Gpu:
    """The double of `cuda.bindings.runtime`; there is no NVML, and the host's clock is the machine's."""
    gpu = gpu or Gpu()
    cuda, bindings = ModuleType("cuda"), ModuleType("cuda.bindings")
    runtime: Any = CudaRuntime(gpu)
    for name, module in (("cuda", cuda), ("cuda.bindings", bindings), ("cuda.bindings.runtime", runtime)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cuda, "bindings", bindings, raising=False)
    monkeypatch.setattr(bindings, "runtime", runtime, raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    for user in ("profilers.engine", "profilers.backends.rtx"):
        monkeypatch.setattr(f"{user}.perf_counter", gpu.seconds)
    return gpu


def install_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str, gpu: Gpu) -> ModuleType:
    """The double of `tensorrt` of that version; its engines run on `gpu`."""
    module = tensorrt.module(version, gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def install_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch, gpu: Gpu) -> ModuleType:
    """The double of `tensorrt_rtx`; its engines run on `gpu`."""
    module = rtx.module(gpu)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    return module
