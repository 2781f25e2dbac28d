"""How networks are trained: the short trainings of a search, reignition on ImageNet, full training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spnas_hw.errors import TrainingError


@dataclass(frozen=True)
class Schedule:
    """How one candidate is trained: AdamW, linear warm-up, then cosine to `final_learning_rate`.

    A network without a parent, which inherits nothing, is trained for `start_iterations` with
    `start_learning_rate`; what has inherited needs fewer and smaller steps.
    """

    start_iterations: int
    start_learning_rate: float
    iterations: int
    batch_size: int
    learning_rate: float
    final_learning_rate: float
    warmup_iterations: int
    weight_decay: float
    clip_grad_norm: float
    rpn_samples: int
    roi_samples: int
    workers: int = 0

    def __post_init__(self) -> None:
        names = ("start_iterations", "iterations", "batch_size", "final_learning_rate")
        require_positive(self, "start_learning_rate", "learning_rate")
        require_positive(self, *names, "warmup_iterations", "clip_grad_norm", "rpn_samples", "roi_samples")
        if not self.warmup_iterations < min(self.start_iterations, self.iterations):
            raise ValueError(f"warmup_iterations is {self.warmup_iterations}; it must be below iterations")
        if self.workers < 0 or not 0 <= self.weight_decay < 1:
            raise ValueError("workers must be at least 0, and weight_decay within 0 and 1")


@dataclass(frozen=True)
class Reignition:
    """How a backbone is trained on ImageNet when growth is stuck: SGD with momentum, linear warm-up, cosine.

    `images` is a folder in ImageNet's layout: `train/<class>/` and `val/<class>/`. `image_size` is the
    side of a training crop in pixels.
    """

    images: Path
    image_size: int
    iterations: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_iterations: int
    workers: int = 0

    def __post_init__(self) -> None:
        names = ("image_size", "iterations", "batch_size", "learning_rate", "warmup_iterations")
        require_positive(self, *names)
        if self.warmup_iterations >= self.iterations:
            raise ValueError(f"warmup_iterations is {self.warmup_iterations}; it must be below iterations")
        if self.workers < 0 or not 0 <= self.weight_decay < 1:
            raise ValueError("workers must be at least 0, and weight_decay within 0 and 1")


@dataclass(frozen=True)
class Training:
    """How one network is trained fully, and what is kept of it.

    `learning_rate` is for a batch of `learning_rate_batch` images and is scaled linearly to the real one
    (Goyal et al. 2017): processes times `images_per_process`. After a linear warm-up it falls to a tenth at
    each of `decay_epochs` (`decay: step`), or to `final_learning_rate` (`decay: cosine`). `norms`: statistics
    of each process, shared by all (`sync`, on GPUs), or those that the start weights bring (`frozen`).

    `ema` is the share of each iteration in the averaged weights that are then validated and kept; `amp`
    computes in float16, on a GPU. `pretrained` is the checkpoint of a ResNet for the backbone.
    """

    epochs: int
    images_per_process: int
    learning_rate: float
    learning_rate_batch: int
    optimizer: Literal["sgd", "adamw"]
    weight_decay: float
    warmup_iterations: int
    decay: Literal["step", "cosine"]
    rpn_samples: int
    roi_samples: int
    checkpoint_iterations: int
    momentum: float | None = None
    decay_epochs: tuple[int, ...] = ()
    final_learning_rate: float | None = None
    clip_grad_norm: float | None = None
    norms: Literal["own", "sync", "frozen"] = "own"
    amp: bool = False
    ema: float | None = None
    validate_epochs: int | None = None
    pretrained: Path | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "epochs", "images_per_process", "learning_rate", "learning_rate_batch")
        require_positive(self, "warmup_iterations", "rpn_samples", "roi_samples", "checkpoint_iterations")
        require_positive(self, "final_learning_rate", "clip_grad_norm", "validate_epochs")
        if self.workers < 0 or not 0 <= self.weight_decay < 1:
            raise ValueError("workers must be at least 0, and weight_decay within 0 and 1")
        if (self.optimizer == "sgd") != (self.momentum is not None) or not 0 <= (self.momentum or 0) < 1:
            raise ValueError(f"momentum is {self.momentum}; sgd needs one below 1, adamw takes none")
        if (self.decay == "step") != bool(self.decay_epochs):
            raise ValueError("decay_epochs belong to decay: step, which needs them")
        if (self.decay == "cosine") != (self.final_learning_rate is not None):
            raise ValueError("final_learning_rate belongs to decay: cosine, which needs it")
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)) or any(
            not 0 < epoch < self.epochs for epoch in self.decay_epochs
        ):
            raise ValueError(
                f"decay_epochs are {list(self.decay_epochs)}; they must ascend within {self.epochs} epochs"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be above 0 and below 1")

    def batch(self, processes: int) -> int:
        """Images of one iteration."""
        return processes * self.images_per_process

    def scaled_learning_rate(self, processes: int) -> float:
        """The learning rate for the real batch."""
        return self.learning_rate * self.batch(processes) / self.learning_rate_batch

    def iterations(self, epochs: int, images: int, processes: int) -> int:
        """Epochs over `images` in iterations, rounded up."""
        return math.ceil(epochs * images / self.batch(processes))

    def require_possible(self, images: int, processes: int, gpus: int) -> None:
        """Raises TrainingError for what cannot be done with so many images on a machine with so many GPUs."""
        iterations = self.iterations(self.epochs, images, processes)
        if self.warmup_iterations >= iterations:
            raise TrainingError(
                f"warmup_iterations is {self.warmup_iterations}, of {iterations} iterations in all "
                f"({self.epochs} epochs of {images} images): give more epochs or a shorter warm-up"
            )
        if self.amp and not gpus:
            raise TrainingError("amp computes in float16 on a GPU, and there is none: set amp to false")
        if self.norms == "sync" and processes > 1 and not gpus:
            raise TrainingError("norms: sync needs GPUs: set norms to own or frozen")


def training_of(schedule: Schedule, epochs: int, from_weights: bool) -> Training:
    """The full training of a configuration that has no key `training`: as its candidates are trained, but
    longer, on a batch of the same size."""
    return Training(
        epochs=epochs,
        images_per_process=schedule.batch_size,
        learning_rate=schedule.learning_rate if from_weights else schedule.start_learning_rate,
        learning_rate_batch=schedule.batch_size,
        optimizer="adamw",
        weight_decay=schedule.weight_decay,
        warmup_iterations=schedule.warmup_iterations,
        decay="cosine",
        rpn_samples=schedule.rpn_samples,
        roi_samples=schedule.roi_samples,
        checkpoint_iterations=1000,
        final_learning_rate=schedule.final_learning_rate,
        clip_grad_norm=schedule.clip_grad_norm,
        workers=schedule.workers,
    )


def require_positive(value: Any, *names: str) -> None:
    """Raises ValueError where a field that is given is not above 0 and finite."""
    for name in names:
        number = getattr(value, name)
        if number is not None and not 0 < number < math.inf:
            raise ValueError(f"{name} is {number}; it must be above 0")
