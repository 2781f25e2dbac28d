"""A search that takes seconds, for tests of what comes after it."""

from __future__ import annotations

from pathlib import Path

import yaml

from .command import succeeded

MINIATURE = {
    "space": {"blocks": ["b"], "base_channels": 4, "stages": [2, 2], "depth": [3, 6], "doublings": [1, 1]},
    "detector": {
        "classes": ["pedestrian", "rider"],
        "neck_channels": 8,
        "anchor_scales": [2.5],
        "proposals_per_level": 40,
        "proposals": 20,
        "finest_scale": 14.0,
        "roi_channels": 16,
        "nms_candidates": 40,
        "detections": 20,
    },
    "dataset": {"type": "streets", "root": "data", "min_height_px": 4, "train": 6, "val": 4, "seed": 0},
    "input_height": 64,
    "input_width": 128,
    "start": "b4_11-2",
    "schedule": {
        "start_iterations": 4,
        "iterations": 2,
        "batch_size": 2,
        "start_learning_rate": 0.001,
        "learning_rate": 0.001,
        "final_learning_rate": 0.0001,
        "warmup_iterations": 1,
        "weight_decay": 0.05,
        "clip_grad_norm": 10.0,
        "rpn_samples": 16,
        "roi_samples": 16,
    },
    "serial": {"max_sample": 3, "max_optimal": 2, "num_mutate": 1, "expand_prob": 0.7, "add_stage_prob": 0.0},
    "parallel": {"max_sample": 2},
    "headroom": 0.05,
    "seed": 0,
}
LONGER = {**MINIATURE["schedule"], "start_iterations": 120, "start_learning_rate": 0.004}


def learned(folder: Path) -> None:
    """Leaves `runs/a` in a folder, one network that learned something on 12 streets, validated on 8; and the
    configurations `mini.yml` and `streets.yml`."""
    document = {**MINIATURE, "schedule": LONGER, "dataset": {**MINIATURE["dataset"], "train": 12, "val": 8}}
    (folder / "mini.yml").write_text(yaml.safe_dump(document))
    (folder / "streets.yml").write_text(yaml.safe_dump(document["dataset"]))
    words = ("--macs", "1e9", "--max-sample", "1", "--phase", "serial", "--run", "runs/a")
    succeeded(folder, "search", "--config", "mini.yml", *words)
