"""A trained detector on single images, in PyTorch: what an export is compared with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from numpy.typing import NDArray
from torch import nn

from spnas_hw.cost.workload import Size
from spnas_hw.detection.detector import PIXEL_MEAN, PIXEL_STD, build_model
from spnas_hw.detection.weights import load_weights
from spnas_hw.errors import DataError
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.detector import Detector

Array = NDArray[np.float32]


def load_detector(trial_folder: Path, architecture: Architecture, detector: Detector) -> nn.Module:
    """The trained detector of a trial, in eval mode. Raises RunError."""
    model = build_model(architecture, detector)
    model.load_state_dict(load_weights(trial_folder))
    return model


def load_image(path: Path) -> NDArray[np.uint8]:
    """[H, W, 3], BGR. Raises DataError."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    image = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
    if image is None:
        raise DataError(f"{path} is no readable image")
    return np.asarray(image)


def preprocess(path: Path, size: Size) -> Array:
    """An image file -> the input of a detector, as `resized`."""
    return resized(load_image(path), size)


def resized(image: NDArray[np.uint8], size: Size) -> Array:
    """[h, w, 3], BGR -> [1, 3, H, W] float32: RGB, resized to `size` (bilinear), ImageNet-normalised."""
    return normalised(scaled(image, size))


def scaled(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """[h, w, 3], BGR -> [H, W, 3], RGB."""
    resized = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(resized[:, :, ::-1])


def normalised(picture: NDArray[np.uint8]) -> Array:
    """[H, W, 3], RGB -> [1, 3, H, W] float32."""
    values = (picture.astype(np.float32) - np.float32(PIXEL_MEAN)) / np.float32(PIXEL_STD)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


@torch.no_grad()
def detect(model: nn.Module, image: Array) -> tuple[Array, Array, NDArray[np.int64]]:
    """mmdet's own prediction for a preprocessed image: boxes [n, 4] in its pixels, scores, labels."""
    height, width = image.shape[2:]
    sample = DetDataSample(
        metainfo={"img_shape": (height, width), "ori_shape": (height, width), "scale_factor": (1.0, 1.0)}
    )
    found = model.predict(torch.from_numpy(image), [sample], rescale=False)[0].pred_instances
    return found.bboxes.numpy(), found.scores.numpy(), found.labels.numpy()
