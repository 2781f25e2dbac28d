"""One small data set of synthetic streets for all tests that only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from spnas_hw.detection.datasets.streets import write_streets

STREETS = {"height": 64, "width": 128, "seed": 3}


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 + 5 images of 64 x 128 pixels."""
    root = tmp_path_factory.mktemp("data") / "streets"
    write_streets(root, train=20, val=5, processes=1, **STREETS)
    return root
