"""Reignition: the backbone of a detector is trained on ImageNet classification and put back (SP-NAS, serial
phase). It goes on from the weights that detection has given it, through the same runner as every training.

mmpretrain would bring the classifier; its packages need torchvision, so the few lines are here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import spnas_hw.detection.framework  # noqa: F401  fills the registries
from spnas_hw.detection.backbone import SPNet
from spnas_hw.detection.detector import PIXEL_MEAN, PIXEL_STD
from spnas_hw.detection.inference import load_image
from spnas_hw.detection.runner import running
from spnas_hw.errors import DataError
from spnas_hw.schedule import Reignition
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode

IMAGES = {".jpg", ".jpeg", ".png"}
LABEL_SMOOTHING = 0.1
CROP_AREA, CROP_RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
SHORTER_SIDE = 256 / 224  # of the picture a validation crop is taken from, against the crop
BACKBONE = "backbone."


def reignite(
    state: Mapping[str, Tensor],
    architecture: Architecture,
    settings: Reignition,
    work_dir: Path,
    seed: int,
    on_iteration: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Tensor], float]:
    """Trains the backbone of a detector as a classifier.

    Args:
        state: state dict of the detector; `backbone.*` is what is trained, the rest is returned as it is.
        work_dir: receives `reignite.log`.

    Returns:
        The detector's state with the new backbone, and top-1 accuracy on `val` as a fraction of 1.

    Raises:
        DataError: the images are not there, or not as they should be.
        TrainingError: the training failed; the trace is in the log.
    """
    folder, size = str(settings.images), settings.image_size
    train, val = ImageFolder(folder, "train", size), ImageFolder(folder, "val", size)
    if train.classes != val.classes:
        differ = ", ".join(sorted(set(train.classes) ^ set(val.classes)))
        raise DataError(f"{settings.images}: train and val differ in the classes {differ}")
    config = _config(architecture, settings, len(train.classes), work_dir, seed)
    own = {key.removeprefix(BACKBONE): value for key, value in state.items() if key.startswith(BACKBONE)}

    def start(model: Classifier) -> None:
        model.backbone.load_state_dict(own)

    with running(config, work_dir / "reignite.log", on_iteration, start) as runner:
        val_loader = DataLoader(val, settings.batch_size, num_workers=settings.workers)
        for _ in val_loader:  # a damaged picture must not be found only after the training
            pass
        runner.train()
        model: Classifier = runner.model
        top1 = _top1(model, val_loader)
        runner.logger.info(f"top-1 {top1:.4f} on {len(val)} images of {len(val.classes)} classes")
        trained = {
            BACKBONE + key: value.detach().clone() for key, value in model.backbone.state_dict().items()
        }
    return {**state, **trained}, top1


def require_splits(images: Path) -> None:
    """Raises DataError where the folders of ImageNet's layout are not there."""
    for split in ("train", "val"):
        _split(images, split)


def _split(images: Path, split: str) -> Path:
    if (images / split).is_dir():
        return images / split
    raise DataError(
        f"{images / split} is missing: reignition needs ImageNet's layout, <split>/<class>/<picture>"
    )


@MODELS.register_module()
class Classifier(BaseModel):
    """A backbone, global average pooling over its last stage, and a linear layer."""

    def __init__(self, code: str, classes: int) -> None:
        super().__init__()
        self.backbone = SPNet(code, zero_init_residual=False)
        self.fc = nn.Linear(self.backbone.architecture.features()[-1].channels, classes)

    def forward(self, image: Tensor, label: Tensor, mode: str = "tensor") -> dict[str, Tensor] | Tensor:
        """Images [N, 3, H, W] and labels [N] -> {"loss"}, or logits [N, classes] in any other mode."""
        logits: Tensor = self.fc(self.backbone(image)[-1].mean((2, 3)))
        if mode == "loss":
            return {"loss": F.cross_entropy(logits, label, label_smoothing=LABEL_SMOOTHING)}
        return logits


@DATASETS.register_module()
class ImageFolder(Dataset[dict[str, Any]]):
    """One split in ImageNet's layout, `images/<split>/<class>/<picture>`, as {"image": [3, size, size]
    float32 RGB, ImageNet-normalised, "label": index of the class in alphabetical order}.

    Pictures of `train` are random crops, flipped at random, by torch's global generator.
    """

    def __init__(self, images: str, split: str, size: int) -> None:
        """Raises DataError: no folder, fewer than two classes, a class without pictures."""
        root = _split(Path(images), split)
        folders = sorted(path for path in root.iterdir() if path.is_dir())
        if len(folders) < 2:
            raise DataError(f"{root} holds {len(folders)} classes; there must be at least 2")
        self.classes = [folder.name for folder in folders]
        self.items: list[tuple[Path, int]] = []
        for label, folder in enumerate(folders):
            pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
            if not pictures:
                raise DataError(f"{folder} holds no pictures ({', '.join(sorted(IMAGES))})")
            self.items += [(picture, label) for picture in pictures]
        self.size, self.training = size, split == "train"

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, label = self.items[index]
        image = load_image(path)
        image = _random_crop(image, self.size) if self.training else _centre_crop(image, self.size)
        normalised = (image[:, :, ::-1].astype(np.float32) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
        return {"image": torch.from_numpy(normalised.transpose(2, 0, 1).copy()), "label": label}


Picture = NDArray[np.uint8]


def _random_crop(image: Picture, size: int) -> Picture:
    """A crop of random area and aspect ratio, resized to `size`, flipped half of the times."""
    height, width = image.shape[:2]
    area, ratio, top, left, flip = torch.rand(5).tolist()
    scale = (CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0])) * height * width
    aspect = float(np.exp(np.log(CROP_RATIO[0]) + ratio * np.log(CROP_RATIO[1] / CROP_RATIO[0])))
    rows = min(height, max(1, round(float(np.sqrt(scale / aspect)))))
    columns = min(width, max(1, round(float(np.sqrt(scale * aspect)))))
    y, x = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    cropped = cv2.resize(image[y : y + rows, x : x + columns], (size, size))
    return cropped[:, ::-1] if flip < 0.5 else cropped


def _centre_crop(image: Picture, size: int) -> Picture:
    height, width = image.shape[:2]
    scale = size * SHORTER_SIDE / min(height, width)
    rows, columns = max(size, round(height * scale)), max(size, round(width * scale))
    resized = cv2.resize(image, (columns, rows))
    y, x = (rows - size) // 2, (columns - size) // 2
    return resized[y : y + size, x : x + size]


@torch.no_grad()
def _top1(model: nn.Module, loader: DataLoader[dict[str, Any]]) -> float:
    model.eval()
    device = next(model.parameters()).device
    right = total = 0
    for batch in loader:
        logits = model(batch["image"].to(device), batch["label"].to(device))
        right += int((logits.argmax(1).cpu() == batch["label"]).sum())
        total += len(batch["label"])
    return right / total


def _config(
    architecture: Architecture, settings: Reignition, classes: int, work_dir: Path, seed: int
) -> dict[str, Any]:
    warmup, iterations = settings.warmup_iterations, settings.iterations
    return {
        "default_scope": "mmdet",
        "experiment_name": f"{work_dir.resolve()}-reignite",
        "work_dir": str(work_dir),
        "model": {"type": "Classifier", "code": encode(architecture), "classes": classes},
        "train_dataloader": {
            "dataset": {
                "type": "ImageFolder",
                "images": str(settings.images),
                "split": "train",
                "size": settings.image_size,
            },
            "batch_size": settings.batch_size,
            "num_workers": settings.workers,
            "persistent_workers": settings.workers > 0,
            "sampler": {"type": "InfiniteSampler", "shuffle": True},
            "collate_fn": {"type": "default_collate"},
        },
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": iterations},
        "optim_wrapper": {
            "type": "OptimWrapper",
            "optimizer": {
                "type": "SGD",
                "lr": settings.learning_rate,
                "momentum": 0.9,
                "weight_decay": settings.weight_decay,
            },
        },
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": warmup},
            {
                "type": "CosineAnnealingLR",
                "eta_min": 0.0,
                "by_epoch": False,
                "begin": warmup,
                "end": iterations,
                "T_max": iterations - warmup,
            },
        ],
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 10, "log_metric_by_epoch": False},
            "checkpoint": None,
        },
        "visualizer": {"type": "Visualizer", "vis_backends": []},
        "randomness": {"seed": seed},
        "log_processor": {"by_epoch": False},
    }
