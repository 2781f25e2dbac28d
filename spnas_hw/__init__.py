"""Hardware-aware architecture search for object-detection backbones (SP-NAS, CVPR 2020)."""

from __future__ import annotations

__version__ = "0.1.0"
