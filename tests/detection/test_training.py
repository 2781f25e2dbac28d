"""Full training: what it leaves, killed and resumed, in two processes as in one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spnas_hw.config import Dataset, SearchConfig, build
from spnas_hw.detection.datasets import image_paths, prepare
from spnas_hw.detection.draws import Draws, ShareOfDraws
from spnas_hw.detection.training import FullTraining
from spnas_hw.detection.training_process import CHECKPOINT, START, TRAINING, alone
from spnas_hw.detection.weights import load_weights, save_weights
from spnas_hw.errors import RunError, SpnasError, TrainingError
from spnas_hw.schedule import Reignition, Training, training_of
from spnas_hw.search.loop import Evaluation
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

from ..miniature import MINIATURE

CODE = "b4_11-2"
CONFIG = build(SearchConfig, MINIATURE, "mini.yml")
SETTINGS = replace(
    training_of(CONFIG.schedule, 2, False),
    images_per_process=2,
    learning_rate_batch=2,
    checkpoint_iterations=2,
)
"""2 epochs of 6 images: 6 iterations."""
STILL = replace(SETTINGS, epochs=1, learning_rate=1e-12, final_learning_rate=1e-13)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    found = replace(CONFIG.dataset, root=tmp_path_factory.mktemp("streets") / "data")
    prepare(found, CONFIG.size)
    return found


def training_in(folder: Path, dataset: Dataset, settings: Training = SETTINGS, **more: Any) -> FullTraining:
    return FullTraining(folder, CONFIG.detector, dataset, settings, CONFIG.size, 0, **more)


def train(training: FullTraining, parent_id: int | None = None) -> tuple[Evaluation, dict[str, Tensor]]:
    trial_id = 0 if parent_id is None else parent_id + 1
    found = training(Proposal(unchanged(decode(CODE))), trial_id, parent_id)
    return found, load_weights(training.folder / f"{trial_id:04d}")


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, dict[str, Tensor]]:
    return train(training_in(tmp_path_factory.mktemp("whole"), dataset))


class Killed(Exception):
    """Not one that a training turns into a failed trial."""


def kill_at(iteration: int) -> Any:
    def report(done: int, total: int) -> None:
        if done == iteration:
            raise Killed

    return report


def test_what_a_training_leaves(whole: tuple[Evaluation, dict[str, Tensor]]) -> None:
    evaluation, state = whole
    assert evaluation.iterations == 6 and evaluation.metrics["mAP"] is not None
    assert evaluation.metrics["lamr/day_pedestrian_all"] is not None
    assert all(torch.isfinite(tensor.float()).all() for tensor in state.values())


@pytest.mark.parametrize("killed_at", [1, 3, 6])
def test_a_killed_training_ends_where_an_undisturbed_one_does(
    dataset: Dataset, tmp_path: Path, whole: tuple[Evaluation, dict[str, Tensor]], killed_at: int
) -> None:
    """To the last bit: weights, statistics, momenta, learning rates, order of the images, samples, flips."""
    with pytest.raises(Killed):
        train(training_in(tmp_path, dataset, on_iteration=kill_at(killed_at)))
    seen: list[int] = []
    evaluation, state = train(training_in(tmp_path, dataset, on_iteration=lambda done, _: seen.append(done)))
    assert seen == list(range(killed_at // 2 * 2 + 1, 7))
    assert evaluation == whole[0]
    assert state.keys() == whole[1].keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in whole[1].items())


def test_averaged_weights_are_what_is_kept(
    dataset: Dataset, tmp_path: Path, whole: tuple[Evaluation, dict[str, Tensor]]
) -> None:
    settings = replace(SETTINGS, ema=0.5)
    evaluation, state = train(training_in(tmp_path / "a", dataset, settings))
    weights = [key for key, tensor in state.items() if tensor.dim() == 4]
    assert any(not torch.equal(state[key], whole[1][key]) for key in weights)
    with pytest.raises(Killed):
        train(training_in(tmp_path / "b", dataset, settings, on_iteration=kill_at(3)))
    assert train(training_in(tmp_path / "b", dataset, settings))[0] == evaluation
    resumed = load_weights(tmp_path / "b" / "0000")
    assert all(torch.equal(state[key], resumed[key]) for key in weights)


def test_a_killed_process_leaves_a_checkpoint_that_can_be_read(dataset: Dataset, tmp_path: Path) -> None:
    """Killed by the system, at a moment that nobody chose."""
    settings = replace(SETTINGS, epochs=400, checkpoint_iterations=1)
    with pytest.raises(Killed):
        train(training_in(tmp_path, dataset, settings, on_iteration=kill_at(1)))
    program = [sys.executable, "-m", "spnas_hw.detection.training_process", str(tmp_path / "0000")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if line[0].isdigit() and int(line.split()[0]) >= 5:
                time.sleep(0.01)
                running.send_signal(signal.SIGKILL)
                break
    saved = torch.load(tmp_path / "0000" / CHECKPOINT, weights_only=False)
    assert saved["meta"]["iter"] >= 5


def test_a_kill_before_the_first_iteration_starts_anew(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "0000" / START).mkdir(parents=True)
    (tmp_path / "0000" / "rubbish").write_text("")
    train(training_in(tmp_path, dataset, replace(SETTINGS, epochs=1)))
    assert not (tmp_path / "0000" / "rubbish").exists()


def test_it_starts_from_the_weights_of_its_parent(
    dataset: Dataset, tmp_path: Path, whole: tuple[Evaluation, dict[str, Tensor]]
) -> None:
    (tmp_path / "0000").mkdir()
    save_weights(whole[1], tmp_path / "0000", CODE)
    still = replace(STILL, norms="frozen")
    _, state = train(training_in(tmp_path, dataset, still), parent_id=0)
    for key, tensor in whole[1].items():
        torch.testing.assert_close(state[key], tensor, atol=1e-6, rtol=0)


def test_it_may_be_reignited_first(
    dataset: Dataset, images: Path, tmp_path: Path, whole: tuple[Evaluation, dict[str, Tensor]]
) -> None:
    """The backbone comes from the classifier, the rest from the parent."""
    (tmp_path / "0000").mkdir()
    save_weights(whole[1], tmp_path / "0000", CODE)
    reignition = Reignition(
        images,
        image_size=32,
        iterations=3,
        batch_size=4,
        learning_rate=0.1,
        weight_decay=0.0001,
        warmup_iterations=1,
    )
    training = training_in(tmp_path, dataset, replace(STILL, norms="frozen"), reignition=reignition)
    found = training(Proposal(unchanged(decode(CODE)), reignite=True), 1, 0)
    assert 0 <= (found.metrics["top1"] or 0) <= 1
    state = load_weights(tmp_path / "0001")
    key, same = "backbone.layer1.0.conv1.weight", "rpn_head.rpn_conv.weight"
    assert not torch.allclose(state[key], whole[1][key], atol=1e-6)
    torch.testing.assert_close(state[same], whole[1][same], atol=1e-6, rtol=0)


def test_two_processes_train_as_one(dataset: Dataset, tmp_path: Path) -> None:
    """Every anchor and proposal is a sample and no statistics of batches count: nothing but the losses' means
    over images with more and with fewer samples differs."""
    settings = replace(
        SETTINGS,
        norms="frozen",
        rpn_samples=100_000,
        roi_samples=100_000,
        optimizer="sgd",
        momentum=0.9,
        learning_rate=0.001,
        final_learning_rate=0.0001,
    )
    one, state = train(training_in(tmp_path / "one", dataset, settings))
    half = replace(settings, images_per_process=1)
    seen: list[int] = []
    in_two = training_in(
        tmp_path / "two", dataset, half, processes=2, on_iteration=lambda done, _: seen.append(done)
    )
    two, other = train(in_two)
    begin = train(training_in(tmp_path / "start", dataset, STILL))[1]
    assert seen == [1, 2, 3, 4, 5, 6] and (one.iterations, two.iterations) == (6, 6)
    moved = torch.cat([(state[key] - begin[key]).flatten() for key in state if state[key].dim() == 4])
    apart = torch.cat([(state[key] - other[key]).flatten() for key in state if state[key].dim() == 4])
    assert float(apart.norm() / moved.norm()) < 0.02
    assert one.metrics.keys() == two.metrics.keys()


def test_nobody_trains_on_when_the_command_is_killed(dataset: Dataset, tmp_path: Path) -> None:
    """Or what goes on would write what the next command writes; and two commands never do."""
    settings = replace(SETTINGS, epochs=10_000, images_per_process=1)
    training = training_in(tmp_path, dataset, settings, processes=2, on_iteration=kill_at(1))
    with pytest.raises(Killed):
        train(training)
    wait_until_free(tmp_path / "0000")
    program = f"""
from pathlib import Path
from spnas_hw.detection.training import launch
launch(Path({str(tmp_path / "0000")!r}), 2, lambda done, total: print(done, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().strip()
        with pytest.raises(RunError, match="trains in"):
            train(training)
        running.kill()
    wait_until_free(tmp_path / "0000")


def wait_until_free(folder: Path) -> None:
    for _ in range(200):
        try:
            with alone(folder):
                return
        except RunError:
            time.sleep(0.1)
    raise AssertionError("somebody still trains")


def test_two_processes_start_from_given_weights(
    dataset: Dataset, tmp_path: Path, whole: tuple[Evaluation, dict[str, Tensor]]
) -> None:
    (tmp_path / "0000").mkdir()
    save_weights(whole[1], tmp_path / "0000", CODE)
    still = replace(STILL, norms="frozen", images_per_process=1)
    _, state = train(training_in(tmp_path, dataset, still, processes=2), parent_id=0)
    for key, tensor in whole[1].items():
        torch.testing.assert_close(state[key], tensor, atol=1e-6, rtol=0)


def test_a_warm_up_without_end_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="warmup_iterations is 6, of 6 iterations in all"):
        train(training_in(tmp_path, dataset, replace(SETTINGS, warmup_iterations=6)))


def test_a_failing_process_says_why(dataset: Dataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, norms="sync")
    with pytest.raises(TrainingError, match="norms: sync needs GPUs"):
        train(training_in(tmp_path, dataset, settings, processes=2))


def test_the_failure_of_one_process_is_told_not_what_it_does_to_the_other(
    dataset: Dataset, tmp_path: Path
) -> None:
    own = replace(dataset, root=tmp_path / "data")
    shutil.copytree(dataset.root, own.root)
    damaged = image_paths(own, "train")[2]
    damaged.write_bytes(b"no image")
    settings = replace(SETTINGS, images_per_process=1)
    with pytest.raises(SpnasError, match=damaged.name):
        train(training_in(tmp_path / "run", own, settings, processes=2))


def test_a_process_that_the_system_ends_is_missed(dataset: Dataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, images_per_process=1, epochs=10_000)
    ended: list[int] = []

    def end_one(done: int, total: int) -> None:
        if not ended:
            listed = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True).stdout
            mine = [line for line in listed.splitlines() if f"training_process {tmp_path}" in line]
            workers = [int(line.split()[0]) for line in mine if "torch.distributed.run" not in line]
            ended.append(workers[-1])
            os.kill(workers[-1], signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"one of the training's processes is gone|ended with"):
        train(training_in(tmp_path, dataset, settings, processes=2, on_iteration=end_one))
    assert "SIGKILL" in (tmp_path / "0000" / "torchrun.log").read_text()


def test_float16_without_a_gpu_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match="amp"):
        train(training_in(tmp_path, dataset, replace(SETTINGS, amp=True)))


def test_another_number_of_processes_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(training_in(tmp_path, dataset, on_iteration=kill_at(1)))
    document = json.loads((tmp_path / "0000" / TRAINING).read_text())
    (tmp_path / "0000" / TRAINING).write_text(json.dumps({**document, "processes": 3}))
    with pytest.raises(TrainingError, match="1 processes were started for a training of 3"):
        train(training_in(tmp_path, dataset))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_draws_of_one(
    dataset: Dataset, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Iteration by iteration; and each epoch shows every image once."""
    from spnas_hw.detection.datasets import mmdet_dataset

    draws = Draws(mmdet_dataset(dataset, "train", []), 24, seed=3)
    for epoch in range(24 // len(draws.dataset)):
        first = epoch * len(draws.dataset)
        shown = {draws.image_of(first + place) for place in range(len(draws.dataset))}
        assert shown == set(range(len(draws.dataset)))
    shares = []
    for rank in range(processes):
        monkeypatch.setattr("spnas_hw.detection.draws.get_dist_info", lambda rank=rank: (rank, processes))
        shares.append(ShareOfDraws(draws, per_process=2))
    batches = list(zip(*(list(share) for share in shares), strict=True))
    together = [
        {batches[2 * i + k][rank] for k in range(2) for rank in range(processes)}
        for i in range(12 // processes)
    ]
    batch = 2 * processes
    assert together == [set(range(i * batch, (i + 1) * batch)) for i in range(12 // processes)]
    for share in shares:
        whole = list(share)
        share.skip(4)
        assert list(share) == whole[4:]


def test_a_draw_is_the_same_whenever_it_is_drawn(dataset: Dataset) -> None:
    from spnas_hw.detection.datasets import mmdet_dataset

    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PackDetInputs"},
    ]
    draws = Draws(mmdet_dataset(dataset, "train", pipeline), 24, seed=3)
    first = [draws[n] for n in range(12)]
    again = [draws[n] for n in reversed(range(12))][::-1]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["inputs"], b["inputs"])
    flips = [sample["data_samples"].flip for sample in first]
    assert True in flips and False in flips


def teardown_module() -> None:
    shutil.rmtree(".dist_test", ignore_errors=True)
