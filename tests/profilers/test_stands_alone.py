from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "mmdet", "mmcv", "mmengine", "spnas_hw")

PROGRAM = f"""
import importlib, pkgutil, sys
for name in {HEAVY!r}:
    sys.modules[name] = None
import profilers
modules = {{m.name for m in pkgutil.walk_packages(profilers.__path__, "profilers.")}}
for module in modules - {{"profilers.__main__"}}:
    importlib.import_module(module)
print(len(modules))
"""


def test_every_module_imports_without_any_runtime() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15
