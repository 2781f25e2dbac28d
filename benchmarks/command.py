"""Commands as a person gives them, on one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def spnas_hw(*arguments: str, folder: Path | None = None) -> str:
    """What a command says on stdout; its stderr is shown. A benchmark ends where a command fails."""
    program = [sys.executable, "-m", "spnas_hw.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout
