"""One process of a full training: alone, or one of torchrun's.

`python -m spnas_hw.detection.training_process FOLDER` trains what `FOLDER/training.json` says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

import spnas_hw.detection.draws
import spnas_hw.detection.framework  # noqa: F401  fills the registries, as the one before
from spnas_hw.config import Dataset, build
from spnas_hw.detection.datasets import image_paths
from spnas_hw.detection.detector import model_config
from spnas_hw.detection.runner import running
from spnas_hw.detection.runner_config import cosine, metrics_of, numbers, optimization, runner_config
from spnas_hw.detection.weights import NAME, load_weights, save_weights
from spnas_hw.errors import RunError, SpnasError, TrainingError
from spnas_hw.schedule import Training
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.detector import Detector

TRAINING = "training.json"
METRICS = "metrics.json"
CHECKPOINT = "checkpoint.pth"
FAILURE = "failure.json"
"""What a process of several leaves behind when it fails: the kind of error and its line."""
LOCK = "lock"
PARENT = "SPNAS_HW_PARENT"
"""Variable with the process that started the training, without which none of it goes on."""
START = "start"
"""Folder of the weights to start from, where there are any: a state dict of the whole or of a part."""


@dataclass(frozen=True)
class Job:
    """What a folder trains: nothing else decides, so that whatever process opens it does the same.

    `processes` is how many take part; `extra` are metrics from before the training.
    """

    code: str
    detector: Detector
    dataset: Dataset
    training: Training
    height: int
    width: int
    seed: int
    processes: int
    extra: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Job:
        """Raises TrainingError where there is none."""
        path = folder / TRAINING
        try:
            return build(cls, json.loads(path.read_text()), str(path))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{path} cannot be read ({error}): start the training again") from error


def train(folder: Path, on_iteration: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Trains from the last checkpoint in `folder`, or from its start weights; leaves `weights.safetensors`
    and `metrics.json` there. What is finished is left as it is.

    Raises:
        TrainingError, DataError: in one line; the whole trace is in `train.log`.
        RunError: another process trains there.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    with alone(folder) if first else contextlib.nullcontext():
        if not (folder / METRICS).exists():
            _train(folder, on_iteration)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else trains in a folder meanwhile, nor whoever a killed command left behind. Raises RunError."""
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"another process trains in {folder}: wait for it, or end it") from error
        yield


def _train(folder: Path, on_iteration: Callable[[int, int], None]) -> None:
    job = Job.read(folder)
    checkpoint = folder / CHECKPOINT
    config = _config(job, folder, len(image_paths(job.dataset, "train")))
    if checkpoint.exists():
        config |= {"resume": True, "load_from": str(checkpoint)}
    validated = _Validated()

    def start(model: nn.Module) -> None:
        if not checkpoint.exists() and (folder / START / NAME).exists():
            _load_part(model, load_weights(folder / START))

    with running(config, folder / "train.log", on_iteration, start) as runner:
        hooks: list[Hook] = [
            _Seeds(job.seed),
            _Checkpoints(folder, job.training.checkpoint_iterations),
            validated,
        ]
        for hook in hooks:
            runner.register_hook(hook, priority="VERY_LOW")
        runner.train()
        if validated.metrics is None:  # killed between the last iteration and its validation
            runner.val()
        if is_main_process():
            assert validated.metrics is not None
            _finish(folder, job, validated.metrics, runner.max_iters)


def _finish(folder: Path, job: Job, found: dict[str, float], iterations: int) -> None:
    document = {"metrics": {**numbers(found), **job.extra}, "iterations": iterations}
    # The averaged weights, where there are any, are those of the checkpoint's state dict.
    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=False)["state_dict"]
    save_weights(state, folder, encode(decode(job.code)))
    partial = folder / "metrics.partial"
    partial.write_text(json.dumps(document, allow_nan=False))
    os.replace(partial, folder / METRICS)
    (folder / CHECKPOINT).unlink()


def _config(job: Job, folder: Path, images: int) -> dict[str, Any]:
    training, processes = job.training, job.processes
    training.require_possible(images, processes, torch.cuda.device_count())
    iterations = training.iterations(training.epochs, images, processes)
    config = runner_config(
        folder,
        model_config(
            decode(job.code),
            job.detector,
            rpn_samples=training.rpn_samples,
            roi_samples=training.roi_samples,
            zero_init_residual=False,
            norm_eval=training.norms == "frozen",
        ),
        job.dataset,
        (job.height, job.width),
        batch=training.images_per_process,
        workers=training.workers,
        iterations=iterations,
        optimization=_optimization(training, processes, images, iterations),
        seed=job.seed,
    )
    loader = config["train_dataloader"]
    draws = iterations * training.batch(processes)
    loader["dataset"] = {"type": "Draws", "dataset": loader["dataset"], "draws": draws, "seed": job.seed}
    loader["sampler"] = {"type": "ShareOfDraws", "per_process": training.images_per_process}
    every = training.validate_epochs
    interval = iterations if every is None else training.iterations(every, images, processes)
    config["train_cfg"] |= {"val_begin": min(interval, iterations), "val_interval": interval}
    config["val_evaluator"] = metrics_of(job.dataset, (job.height, job.width))
    if training.ema is not None:
        config["custom_hooks"] = [{"type": "EMAHook", "momentum": training.ema}]
    return config | _distributed(job)


def _optimization(training: Training, processes: int, images: int, iterations: int) -> dict[str, Any]:
    learning_rate = training.scaled_learning_rate(processes)
    warmup = training.warmup_iterations
    optimizer = {"lr": learning_rate, "weight_decay": training.weight_decay}
    if training.optimizer == "sgd":
        optimizer |= {"type": "SGD", "momentum": training.momentum}
    else:
        optimizer |= {"type": "AdamW"}
    if training.final_learning_rate is not None:
        final = training.final_learning_rate * learning_rate / training.learning_rate
        decay = cosine(final, warmup, iterations)
    else:
        steps = [training.iterations(epoch, images, processes) for epoch in training.decay_epochs]
        decay = {"type": "MultiStepLR", "begin": 0, "end": iterations, "milestones": steps, "gamma": 0.1}
    return optimization(optimizer, training.clip_grad_norm, warmup, decay, training.amp)


def _distributed(job: Job) -> dict[str, Any]:
    """How several processes find each other and share gradients. Raises TrainingError."""
    found = int(os.environ.get("WORLD_SIZE", "1"))
    if found != job.processes:
        raise TrainingError(f"{found} processes were started for a training of {job.processes}")
    gpu = torch.cuda.is_available()
    if found == 1:
        return {}
    wrapper: dict[str, Any] = {"type": "MMDistributedDataParallel", "broadcast_buffers": False}
    if not gpu:
        wrapper["device_ids"] = None
    if not torch.distributed.is_initialized():  # mmengine would ask for a GPU
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
    return {
        "launcher": "pytorch",
        "model_wrapper_cfg": wrapper,
        "sync_bn": "torch" if job.training.norms == "sync" else None,
    }


def _load_part(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = model.state_dict()
    if unknown := sorted(state.keys() - own.keys()):
        raise TrainingError(f"the start weights are of another network: it has no {unknown[0]}")
    model.load_state_dict({**own, **state})


class _Seeds(Hook):
    """What iteration i draws depends on the seed, i and the process alone, resumed or not."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        words = [self.seed, 2, runner.iter, get_dist_info()[0]]
        torch.manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1))


class _Validated(Hook):
    """Keeps what the validation after the last iteration said."""

    metrics: dict[str, float] | None = None

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if runner.iter >= runner.max_iters:
            self.metrics = metrics


class _Checkpoints(Hook):
    """Everything to go on with, in one file that is replaced whole."""

    def __init__(self, folder: Path, interval: int) -> None:
        self.folder, self.interval = folder, interval

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        done = runner.iter + 1
        if is_main_process() and (done % self.interval == 0 or done == runner.max_iters):
            runner.save_checkpoint(str(self.folder), "checkpoint.partial", by_epoch=False)
            with open(self.folder / "checkpoint.partial", "rb") as file:
                os.fsync(file.fileno())
            os.replace(self.folder / "checkpoint.partial", self.folder / CHECKPOINT)


def main(folder: Path) -> int:
    """Says on stdout how far it is, a line "done total" each; a failure is left in `failure.json`."""

    def report(done: int, total: int) -> None:
        if is_main_process():
            sys.stdout.write(f"{done} {total}\n")
            sys.stdout.flush()

    if parent := os.environ.get(PARENT):
        threading.Thread(target=_end_with, args=(int(parent), os.getppid()), daemon=True).start()
    try:
        train(folder, report)
    except SpnasError as error:
        with contextlib.suppress(FileExistsError), open(folder / FAILURE, "x") as file:
            # The first one: the others then fail for want of it.
            json.dump({"kind": type(error).__name__, "message": _reason(error, folder)}, file)
        return 1
    if torch.distributed.is_initialized():  # not after a failure: it would wait for the others
        torch.distributed.destroy_process_group()
    return 0


def _reason(error: SpnasError, folder: Path) -> str:
    """What failed, rather than what that did to this process."""
    if re.search(r"Connection (closed|reset)|Broken pipe|NCCL", str(error)):
        return (
            f"one of the training's processes is gone: {folder / 'torchrun.log'} says which signal ended it"
        )
    return str(error)


def _end_with(parent: int, launcher: int) -> None:
    """Ends this process as soon as the one that started the training, or torchrun between them, is gone."""
    while os.getppid() == launcher:
        try:
            os.kill(parent, 0)
        except ProcessLookupError:
            break
        time.sleep(0.5)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
