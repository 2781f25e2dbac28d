from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in what is bright: the left, the top, nothing."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for name in ("dark", "stripes", "bright"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                picture = rng.integers(0, 60, (40, 56, 3), dtype=np.uint8)
                if name == "bright":
                    picture += 150
                if name == "stripes":
                    picture[:, ::4] += 180
                cv2.imwrite(str(root / split / name / f"{index}.png"), picture)
    return root
