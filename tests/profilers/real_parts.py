"""The parts of small detectors, exported as those of a search space are."""

from __future__ import annotations

import functools
import tempfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from profilers.manifest import read_manifest
from profilers.network import random_inputs, signature

SIZE = (64, 96)
SEED = 5
"""Of the weights; one under which no two boxes are so nearly alike that float16 exchanges them."""


@functools.cache
def real_parts() -> tuple[dict[str, onnx.ModelProto], tuple[str, ...]]:
    """Every part of a search space by key, and the keys of the parts that make a whole detector.

    Skips the test where the detection extra is not installed.
    """
    pytest.importorskip("mmdet")
    import torch

    from spnas_hw.detection.detector import build_model
    from spnas_hw.export.workloads import write_workloads
    from spnas_hw.space.architecture import Architecture
    from spnas_hw.space.codec import decode
    from spnas_hw.space.detector import Detector
    from spnas_hw.space.search_space import SearchSpace

    detector = Detector(
        ("pedestrian", "rider"),
        neck_channels=16,
        anchor_scales=(2.5,),
        proposals_per_level=60,
        proposals=40,
        finest_scale=14.0,
        roi_channels=32,
        nms_candidates=80,
        detections=30,
        score_threshold=0.01,
    )

    def build(architecture: Architecture) -> torch.nn.Module:
        """Random weights, each of its name alone, under which scores and boxes vary from place to place."""
        model = build_model(architecture, detector)
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(SEED + zlib.crc32(name.encode()))
            if any(word in name for word in ("rpn_cls", "rpn_reg", "fc_cls", "fc_reg")):
                parameter.data.normal_(0, 0.1, generator=generator)
            elif parameter.dim() > 1:
                parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            elif name.endswith(".bias"):
                parameter.data.zero_()
        return model

    whole = decode("b8_11-2")
    space = SearchSpace((whole.block,), base_channels=8, stages=(2, 2), depth=(3, 3), doublings=(1, 1))
    with tempfile.TemporaryDirectory() as folder:
        path = write_workloads(
            Path(folder), space, detector, SIZE, build, space_hash="", precision="fp32", wholes=(whole,)
        )
        manifest = read_manifest(path)
        return {key: manifest.load_part(key) for key in manifest.parts}, manifest.wholes[0].parts


def inputs_for(model: onnx.ModelProto, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays a part could be given: random features and image, boxes inside the image."""
    rng = np.random.default_rng(seed)
    arrays = random_inputs(signature(model).inputs, rng)
    if "proposals" in arrays:
        corners = rng.uniform(0, 40, arrays["proposals"].shape).astype(np.float32)
        corners[:, 2:] += corners[:, :2] + 4
        arrays["proposals"] = corners
    return arrays
