from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from spnas_hw.config import Dataset, load_search
from spnas_hw.detection.datasets import prepare
from spnas_hw.detection.evaluator import ShortTraining
from spnas_hw.detection.weights import load_weights
from spnas_hw.errors import DataError, RunError, TrainingError
from spnas_hw.schedule import Reignition, Schedule
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

SIZE = (64, 128)
SCHEDULE = Schedule(
    start_iterations=3,
    start_learning_rate=1e-3,
    iterations=2,
    batch_size=2,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    warmup_iterations=1,
    weight_decay=0.05,
    clip_grad_norm=10.0,
    rpn_samples=16,
    roi_samples=16,
)
START = Proposal(unchanged(decode("b4_11-2")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found = Dataset("streets", tmp_path_factory.mktemp("streets"), min_height_px=4, train=4, val=2, seed=0)
    prepare(found, SIZE)
    return found


@pytest.fixture
def training(tmp_path: Path, dataset: Dataset) -> ShortTraining:
    detector = replace(load_search("demo").detector, neck_channels=8, roi_channels=16, proposals=20)
    return ShortTraining(tmp_path, detector, dataset, SCHEDULE, SIZE, seed=0)


def test_the_same_seed_trains_the_same(training: ShortTraining) -> None:
    done: list[tuple[int, int]] = []
    first = replace(training, folder=training.folder / "a", on_iteration=lambda *n: done.append(n))
    second = replace(training, folder=training.folder / "b")
    assert first(START, 0, None) == second(START, 0, None)
    assert done == [(1, 3), (2, 3), (3, 3)]
    a, b = (load_weights(one.folder / "0000") for one in (first, second))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert sorted(p.name for p in (first.folder / "0000").iterdir()) == ["train.log", "weights.safetensors"]
    log = (first.folder / "0000" / "train.log").read_text()
    assert log.count("coco/bbox_mAP_50:") == 1  # validated once


def test_a_cascade_trains_every_box_head_and_hands_them_on(training: ShortTraining) -> None:
    cascade = replace(training, detector=replace(training.detector, type="cascade_rcnn"))
    assert cascade(START, 0, None).iterations == 3
    log = (cascade.folder / "0000" / "train.log").read_text()
    assert all(f"s{stage}.loss_bbox" in log for stage in range(3))
    still = replace(cascade, schedule=replace(SCHEDULE, learning_rate=1e-12, final_learning_rate=1e-12))
    still(START, 1, 0)
    parent, child = (load_weights(cascade.folder / name) for name in ("0000", "0001"))
    heads = [key for key in parent if key.startswith("roi_head.bbox_head.2.")]
    assert len(heads) == 8
    for key in heads:
        torch.testing.assert_close(child[key], parent[key], atol=1e-6, rtol=1e-6)


def test_a_child_starts_from_its_parent(training: ShortTraining) -> None:
    training(START, 0, None)
    still = replace(training, schedule=replace(SCHEDULE, learning_rate=1e-12, final_learning_rate=1e-12))
    found = still(START, 1, 0)
    assert found.iterations == 2
    parent, child = (load_weights(training.folder / name) for name in ("0000", "0001"))
    for key, tensor in parent.items():
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(child[key], tensor, atol=1e-6, rtol=1e-6)


def test_a_loss_that_is_not_finite_is_a_failed_trial(training: ShortTraining) -> None:
    hot = replace(SCHEDULE, start_learning_rate=1e30, final_learning_rate=1e30, start_iterations=20)
    with pytest.raises(TrainingError) as caught:
        replace(training, schedule=hot)(START, 0, None)
    assert "\n" not in str(caught.value)
    assert "Traceback" in (training.folder / "0000" / "train.log").read_text()
    assert not (training.folder / "0000" / "weights.safetensors").exists()


def test_missing_data_is_no_trial(training: ShortTraining, tmp_path: Path) -> None:
    lost = replace(training, dataset=replace(training.dataset, root=tmp_path / "nowhere"))
    with pytest.raises(DataError):
        lost(START, 0, None)


def test_missing_or_damaged_weights_of_a_parent(training: ShortTraining) -> None:
    with pytest.raises(RunError, match="missing"):
        training(START, 1, 0)
    (training.folder / "0000").mkdir()
    (training.folder / "0000" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match="cannot be read"):
        training(START, 1, 0)


def test_a_share_of_the_schedule(training: ShortTraining) -> None:
    longer = replace(training, schedule=replace(SCHEDULE, iterations=8))
    longer(START, 0, None)
    assert longer(replace(START, share=0.5), 1, 0).iterations == 4
    assert longer(replace(START, share=0.01), 2, 0).iterations == 2  # the warm-up and one
    assert longer(replace(START, share=0.5), 3, None).iterations == 3  # nothing to inherit: all of the start


def test_a_reignited_trial(training: ShortTraining, tmp_path: Path) -> None:
    images = tmp_path / "imagenet"
    for split in ("train", "val"):
        for shade, name in enumerate(("dark", "bright")):
            (images / split / name).mkdir(parents=True)
            cv2.imwrite(
                str(images / split / name / "0.png"), np.full((20, 20, 3), 50 + 150 * shade, np.uint8)
            )
    settings = Reignition(images, 16, 2, 2, 0.1, 0.0, 1)
    hot = replace(training, reignition=settings)
    hot(START, 0, None)
    found = hot(replace(START, reignite=True), 1, 0)
    assert found.metrics["top1"] in (0.0, 0.5, 1.0) and found.iterations == 2
    assert (hot.folder / "0001" / "reignite.log").exists()
    with pytest.raises(RunError, match="no key reignition"):
        training(replace(START, reignite=True), 2, 0)
