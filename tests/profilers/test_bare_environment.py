"""A target device needs a runtime and the base install: neither torch nor mmdet."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from onnx_parts import chain, conv, manifest

from profilers.table import LatencyTable

REPOSITORY = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_measuring_in_an_environment_with_the_base_install_only(tmp_path: Path) -> None:
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        REPOSITORY,
        "onnxruntime",
        cwd=tmp_path,
    )
    installed = run(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    assert "onnxruntime==" in installed
    for heavy in ("torch", "mmdet", "mmcv", "mmengine", "matplotlib"):
        assert heavy not in installed
    manifest(tmp_path / "workloads", {"b": conv()}, {"b": chain("b")})
    words = (
        "-m",
        "profilers",
        "measure",
        "workloads/manifest.json",
        "--runtime",
        "onnxruntime",
        "--out",
        "tables",
    )
    folder = run(python, *words, cwd=tmp_path).strip()
    assert set(LatencyTable.read(tmp_path / folder).costs()) == {"b"}
