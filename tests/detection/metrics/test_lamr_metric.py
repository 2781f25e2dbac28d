from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import METRICS
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator
from mmengine.structures import InstanceData

import spnas_hw.detection.framework  # noqa: F401
from spnas_hw.errors import DataError

PERSON, OTHER, NOTHING = [100.0, 100, 140, 200], [300.0, 100, 340, 200], [500.0, 100, 540, 200]
Found = list[tuple[int, list[float]]]
"""Label and box by falling score."""


def sample(
    root: Path,
    place: str,
    people: list[list[float]],
    found: Found,
    scale: float = 1,
    size: Any = (1024, 1920),
) -> DetDataSample:
    """A detected image of which only the label exists. `place` is time/city_frame."""
    time, name = place.split("/")
    label = root / "ECP" / time / "labels/val/roma" / f"{name}.json"
    label.parent.mkdir(parents=True, exist_ok=True)
    corners = ("x0", "y0", "x1", "y1")
    children = [
        {"identity": "pedestrian"} | {key: scale * edge for key, edge in zip(corners, person, strict=True)}
        for person in people
    ]
    label.write_text(json.dumps({"identity": "frame", "children": children}))
    image = root / "ECP" / time / "img/val/roma" / f"{name}.png"
    made = DetDataSample(metainfo={"img_path": str(image), "ori_shape": size})
    made.pred_instances = InstanceData(
        bboxes=scale * torch.tensor([box for _, box in found]).reshape(-1, 4),
        labels=torch.tensor([label for label, _ in found], dtype=torch.long),
        scores=torch.linspace(0.9, 0.5, len(found)),
    )
    return made


def evaluated(samples: list[DetDataSample], classes: Any = ("pedestrian", "rider"), **options: Any) -> Any:
    evaluator = Evaluator(METRICS.build({"type": "LAMRMetric", "size": (1024, 1920), **options}))
    evaluator.dataset_meta = {"classes": classes}
    for one in samples:
        evaluator.process(data_samples=[one], data_batch=None)
    return evaluator.evaluate(len(samples))


def test_lamr_in_the_validation_loop(tmp_path: Path) -> None:
    people = [PERSON, OTHER]
    metrics = evaluated(
        [
            sample(tmp_path, "night/roma_00002", people, []),
            sample(tmp_path, "day/roma_00001", people, [(0, NOTHING), (0, PERSON), (1, OTHER)]),
            *(sample(tmp_path, f"day/bari_{index:05d}", [], []) for index in range(36)),
        ]
    )
    assert metrics["lamr/day_pedestrian_reasonable"] == pytest.approx(0.5832645198)
    assert metrics["lamr/night_pedestrian_reasonable"] == 1.0
    names = {
        f"lamr/{time}_pedestrian_{subset}" for time in ("day", "night") for subset in ("reasonable", "all")
    }
    assert metrics.keys() == names | {f"{name}_ignore_other_vru" for name in names}


def test_images_of_another_size_are_scaled(tmp_path: Path) -> None:
    """At 192 x 384 pixels a person of 100 is one of 19, and the right edge lies beyond the benchmark's."""
    beyond = [1960.0, 100, 2040, 300]
    found = [(0, NOTHING), (0, PERSON), (0, beyond)]
    small = sample(tmp_path, "day/roma_00001", [PERSON, OTHER, beyond], found, 192 / 1024, (192, 384))
    empty = [sample(tmp_path, f"day/bari_{index:05d}", [], [], 1, (192, 384)) for index in range(36)]
    metrics = evaluated([small, *empty], size=[192, 384])
    assert metrics["lamr/day_pedestrian_reasonable"] == pytest.approx((1 / 3) ** (7 / 9))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"roma_1\.png is 192x384, LAMR was asked for 1024x1920"):
        evaluated([sample(tmp_path, "day/roma_1", [], [], size=(192, 384))])
    with pytest.raises(DataError, match=r"dusk.*day\|night"):
        evaluated([sample(tmp_path, "dusk/roma_1", [], [])])
    with pytest.raises(DataError, match="the data set has rider, pedestrian"):
        evaluated([sample(tmp_path, "day/roma_1", [], [])], ("rider", "pedestrian"))
    missing = sample(tmp_path, "day/roma_1", [], [])
    (tmp_path / "ECP/day/labels/val/roma/roma_1.json").unlink()
    with pytest.raises(DataError, match=r"roma_1\.json cannot be read"):
        evaluated([missing])
