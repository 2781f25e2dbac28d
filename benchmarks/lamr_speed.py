"""How long `spnas-hw evaluate lamr` takes on as many images as EuroCity Persons' validation split by day.

Labels and detections are drawn at random, in the official format; nothing of the real data set is needed.
Results go to benchmarks/results/.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from profilers.environment import cpu_name, package_version
from spnas_hw import console
from spnas_hw.detection.datasets.ecp import CLASSES, GROUPS, read_objects
from spnas_hw.detection.datasets.ecp_detections import pair_files, read_detections
from spnas_hw.detection.metrics.lamr import evaluate

RESULTS = Path(__file__).parent / "results"
IMAGES = 4266
DETECTIONS = 100  # of each class in every image
OBJECTS = 8  # on average; every tenth image is five times as crowded
NEAR = 0.3  # of the detections are near a labelled object, the others anywhere
REPEATS = 3
TARGET_S = 20
TAGS = ([], [], ["occluded>10"], ["occluded>40"], ["occluded>80"], ["truncated>10"], ["behind-glass"])
IDENTITIES = (*["pedestrian"] * 6, *["rider"] * 2, *GROUPS.values())


def main(
    images: Annotated[int, typer.Option(min=1)] = IMAGES,
    results: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        labels, detections = Path(folder) / "labels", Path(folder) / "detections"
        write(labels, detections, images, np.random.default_rng(0))
        seconds = measure(labels, detections)
    command_s = seconds["command"]
    target = f"{command_s:.1f} s for both classes, all subsets, both flags, below {TARGET_S} s"
    document = {
        "provenance": {
            "date": date.today().isoformat(),
            "device": cpu_name(),
            "threads": 1,
            "python": sys.version.split()[0],
            "packages": {"numpy": package_version("numpy")},
        },
        "images": images,
        "detections_per_image": DETECTIONS * len(CLASSES),
        "seconds": seconds,
        "targets": {target: command_s < TARGET_S},
    }
    console.stdout.print(
        f"{seconds}\n{'met   ' if command_s < TARGET_S else 'MISSED'} {target}", highlight=False
    )
    results.mkdir(parents=True, exist_ok=True)
    path = results / "lamr_speed.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.stdout.print(str(path))


def measure(labels: Path, detections: Path) -> dict[str, float]:
    """Seconds of the parts, and of the command with its start."""
    read: list[Any] = []

    def read_all() -> None:
        read[:] = [
            (read_objects(label), read_detections(found)) for label, found in pair_files(labels, detections)
        ]

    program = [sys.executable, "-m", "spnas_hw.cli", "evaluate", "lamr", "--json"]
    program += ["--ground-truth", str(labels), "--detections", str(detections)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return {
        "read": _least_seconds(read_all),
        "evaluate_one_class": _least_seconds(lambda: evaluate(read, CLASSES[:1])),
        "evaluate_both_classes": _least_seconds(lambda: evaluate(read)),
        "command": _least_seconds(
            lambda: subprocess.run(program, env=environment, check=True, capture_output=True)
        ),
    }


def write(labels: Path, detections: Path, images: int, rng: np.random.Generator) -> None:
    """The files of `images` random images."""
    for folder in (labels, detections):
        folder.mkdir()
    for index in range(images):
        objects = [_object(rng) for _ in range(rng.poisson(OBJECTS * (5 if index % 10 == 0 else 1)))]
        found = [_detection(rng, objects, name) for name in CLASSES for _ in range(DETECTIONS)]
        for folder, children in ((labels, objects), (detections, found)):
            frame = {"identity": "frame", "imagewidth": 1920, "imageheight": 1024, "children": children}
            (folder / f"synthville_{index:05d}.json").write_text(json.dumps(frame))


def _object(rng: np.random.Generator) -> dict[str, Any]:
    height = float(rng.uniform(15, 300))
    return {
        "identity": str(rng.choice(IDENTITIES)),
        **_box(rng.uniform(0, 1800), rng.uniform(300, 700), 0.4 * height, height),
        "tags": TAGS[rng.integers(len(TAGS))],
        "children": [],
    }


def _detection(rng: np.random.Generator, objects: list[dict[str, Any]], name: str) -> dict[str, Any]:
    if objects and rng.random() < NEAR:
        near = objects[rng.integers(len(objects))]
        height = near["y1"] - near["y0"]
        box = {corner: near[corner] + rng.normal(0, height / 20) for corner in ("x0", "y0", "x1", "y1")}
    else:
        height = float(rng.uniform(15, 300))
        box = _box(rng.uniform(0, 1800), rng.uniform(300, 700), 0.4 * height, height)
    return {"identity": name, **box, "score": float(rng.random()), "orient": -10.0}


def _box(x: float, y: float, width: float, height: float) -> dict[str, float]:
    return {"x0": float(x), "y0": float(y), "x1": float(x + width), "y1": float(y + height)}


def _least_seconds(call: Callable[[], object]) -> float:
    """Of `REPEATS` calls: other processes only ever add."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return round(min(seconds), 2)


if __name__ == "__main__":
    typer.run(main)
