"""The commands that mend an installation, each written once."""

from __future__ import annotations

# mmcv compiles against the torch it finds; a wheel made for another torch, or for none, must not be reused.
MMCV = (
    "pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv "
    "(with torch installed)"
)
DETECTION = (
    "make setup, or pip install torch, then onedl-mmcv with --no-build-isolation, then 'spnas-hw[detection]'"
)
