from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from spnas_hw.detection.detector import build_model
from spnas_hw.detection.reignition import ImageFolder, reignite
from spnas_hw.errors import DataError, TrainingError
from spnas_hw.schedule import Reignition
from spnas_hw.space.codec import decode
from spnas_hw.space.detector import Detector

DETECTOR = Detector(("pedestrian",), neck_channels=8, roi_channels=16, proposals=20)


@pytest.fixture
def settings(images: Path) -> Reignition:
    return Reignition(
        images,
        image_size=32,
        iterations=30,
        batch_size=8,
        learning_rate=0.1,
        weight_decay=1e-4,
        warmup_iterations=3,
    )


def a_state(code: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = build_model(decode(code), DETECTOR)
    model.init_weights()
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_it_learns_the_classes(settings: Reignition, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    code = "b8_11-2-1"
    state, top1 = reignite(
        a_state(code), decode(code), settings, tmp_path, 0, lambda *step: done.append(step)
    )
    assert top1 > 0.8  # chance is a third
    assert done[-1] == (30, 30)
    log = (tmp_path / "reignite.log").read_text()
    losses = [float(loss) for loss in re.findall(r" loss: (\S+)", log)]
    assert losses[-1] < 0.8 * losses[0] and "top-1" in log
    assert [path.name for path in tmp_path.iterdir()] == ["reignite.log"]
    detector = build_model(decode(code), DETECTOR)
    detector.load_state_dict(state)
    with torch.no_grad():
        assert all(feature.isfinite().all() for feature in detector.extract_feat(torch.rand(1, 3, 64, 64)))


@pytest.mark.parametrize(
    "code", ["b4_11-2_0-0", "r4_1-2_0-1", "x(2x8d)16d_1-1_1-0", "b4d_1-1-2_0-2o-1", "x(32x4d)16_1-2_0-0"]
)
def test_the_whole_backbone_is_trained_and_nothing_else(
    code: str, settings: Reignition, tmp_path: Path
) -> None:
    before = a_state(code)
    after, _ = reignite(before, decode(code), replace(settings, iterations=4), tmp_path, 0)
    assert after.keys() == before.keys()
    for key, value in before.items():
        changed = not torch.equal(value, after[key])
        assert changed == key.startswith("backbone."), key
    assert all(torch.isfinite(value).all() for value in after.values())


def test_it_goes_on_from_what_detection_learnt(settings: Reignition, tmp_path: Path) -> None:
    """With hardly a step taken, the weights are still those of the detector."""
    before = a_state("b4_11-2")
    timid = replace(settings, iterations=2, warmup_iterations=1, learning_rate=1e-8)
    after, _ = reignite(before, decode("b4_11-2"), timid, tmp_path, 0)
    key = "backbone.layer2.0.conv1.weight"
    assert torch.allclose(before[key], after[key], atol=1e-5)


def test_the_same_seed_trains_the_same(settings: Reignition, tmp_path: Path) -> None:
    short = replace(settings, iterations=4)
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        state, _ = reignite(a_state("b4_11-2"), decode("b4_11-2"), short, tmp_path / name, seed)
        found.append(state["backbone.layer1.0.conv1.weight"])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_pictures_are_seen_as_the_detector_sees_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "val" / name).mkdir(parents=True)
        cv2.imwrite(
            str(tmp_path / "val" / name / "x.png"), np.full((40, 40, 3), (255, 0, 0), np.uint8)
        )  # blue
    image = ImageFolder(str(tmp_path), "val", 32)[0]["image"]
    assert image.shape == (3, 32, 32)
    expected = [(0 - 123.675) / 58.395, (0 - 116.28) / 57.12, (255 - 103.53) / 57.375]
    assert image.mean((1, 2)).tolist() == pytest.approx(expected, abs=1e-4)


def test_a_diverging_training_is_a_failed_one(settings: Reignition, tmp_path: Path) -> None:
    hot = replace(settings, learning_rate=1e30)
    with pytest.raises(TrainingError, match="not finite at iteration"):
        reignite(a_state("b4_11-2"), decode("b4_11-2"), hot, tmp_path, 0)


def test_what_is_wrong_with_the_images_is_said(settings: Reignition, images: Path, tmp_path: Path) -> None:
    def refused(root: Path) -> str:
        with pytest.raises(DataError) as caught:
            reignite({}, decode("b4_1"), replace(settings, images=root), tmp_path, 0)
        return str(caught.value)

    here = tmp_path / "images"
    assert f"{here}/train is missing" in refused(here)
    (here / "train" / "cat").mkdir(parents=True)
    assert "1 classes" in refused(here)
    (here / "train" / "dog").mkdir()
    assert "train/cat holds no pictures" in refused(here)
    for split, names in (("train", ("cat", "dog")), ("val", ("cat", "fox"))):
        for name in names:
            (here / split / name).mkdir(parents=True, exist_ok=True)
            (here / split / name / "1.png").write_bytes((images / "val" / "dark" / "0.png").read_bytes())
    assert "differ in the classes dog, fox" in refused(here)
    broken = here / "train" / "cat" / "2.jpg"
    broken.write_text("no picture")
    with pytest.raises(DataError, match=r"2\.jpg is no readable image"):
        folder = ImageFolder(str(here), "train", 32)
        [folder[index] for index in range(len(folder))]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_validation_picture_is_found_before_the_training(
    workers: int, settings: Reignition, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(images, tmp_path / "images")
    damaged = tmp_path / "images" / "val" / "dark" / "0.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    done: list[tuple[int, int]] = []
    hurt = replace(settings, images=tmp_path / "images", workers=workers)
    with pytest.raises(DataError) as caught:
        reignite(a_state("b4_11-2"), decode("b4_11-2"), hurt, tmp_path, 0, lambda *step: done.append(step))
    assert str(caught.value) == f"{damaged} is no readable image" and not done


@pytest.mark.parametrize(
    "wrong", [{"iterations": 0}, {"warmup_iterations": 30}, {"workers": -1}, {"image_size": 0}]
)
def test_settings_are_checked(settings: Reignition, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        replace(settings, **wrong)
