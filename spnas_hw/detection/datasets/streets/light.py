"""Light, weather and camera of the synthetic streets: how a painted canvas becomes a photograph."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from spnas_hw.detection.datasets.streets.canvas import CAMERA_HEIGHT_M, Array, Canvas, Colour


def haze(canvas: Canvas, rng: np.random.Generator, colour: Colour) -> None:
    """Distance fades into the colour of the horizon; now and then it is fog."""
    range_m = float(rng.uniform(25, 60)) if rng.random() < 0.12 else float(rng.uniform(150, 600))
    share = (1 - np.exp(-np.minimum(canvas.depth_m, 400) / range_m))[:, :, None]
    canvas.bgr += (np.asarray(colour, np.float32) - canvas.bgr) * share


def night(canvas: Canvas, rng: np.random.Generator, lamps_m: list[tuple[float, float, float]]) -> None:
    """Ambient light, the low beam of the own car, pools of light under street lamps, and glowing sources."""
    camera = canvas.camera
    rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    columns = np.arange(camera.width, dtype=np.float32)[None] + 0.5
    z = np.minimum(canvas.depth_m, 300)
    x = (columns - camera.vanish_x) * z / camera.focal_px
    y = CAMERA_HEIGHT_M - (rows - camera.horizon_y) * z / camera.focal_px
    below_cut_off = 0.25 + 0.75 / (1 + np.exp(np.clip((y - 1.0 - 0.01 * z) / 0.3, -20, 20)))
    beam = 1.15 / (1 + (z / 16) ** 2) * np.exp(-((x / (2.2 + 0.35 * z)) ** 2)) * below_cut_off
    light = (rng.uniform(0.1, 0.24) + 0 * beam)[:, :, None] * np.array([1.15, 1.0, 0.92], np.float32)
    light += beam[:, :, None] * np.array([0.92, 0.98, 1.0], np.float32)
    for lamp_x, lamp_y, lamp_z in lamps_m:
        distance2 = (x - lamp_x) ** 2 + (y - lamp_y) ** 2 + (z - lamp_z) ** 2
        light += (0.8 / (1 + distance2 / 22))[:, :, None] * np.array([0.6, 0.85, 1.0], np.float32)
    sky = canvas.depth_m > 500
    canvas.bgr *= light
    canvas.bgr[sky] = canvas.bgr[sky] * 0.35 + np.array([18, 10, 8], np.float32)
    size = camera.height / 192
    bloom = (
        cv2.GaussianBlur(canvas.glow, (0, 0), 3.5 * size) * 0.9
        + cv2.GaussianBlur(canvas.glow, (0, 0), size) * 0.5
    )
    canvas.bgr += canvas.glow * 0.85 + bloom


def _rain(canvas: Canvas, rng: np.random.Generator) -> None:
    camera = canvas.camera
    drops = np.zeros((camera.height, camera.width), np.float32)
    length, slant = camera.height * 0.05, rng.uniform(-0.25, 0.25)
    for start in rng.uniform(0, 1, (int(rng.integers(60, 160)), 2)) * (camera.width, camera.height):
        end = start + np.array([slant * length, length])
        first, last = (tuple(int(v * 16) for v in point) for point in (start, end))
        cv2.line(drops, first, last, float(rng.uniform(10, 30)), max(1, camera.height // 400), cv2.LINE_AA, 4)
    canvas.bgr += drops[:, :, None]


def photograph(canvas: Canvas, rng: np.random.Generator, dark: bool) -> tuple[NDArray[np.uint8], list[str]]:
    """Rain, exposure, white balance, blur, noise -> image [H, W, 3] uint8 BGR, and the tags of the frame."""
    tags = []
    height = canvas.camera.height
    if rng.random() < 0.1:
        _rain(canvas, rng)
        tags.append("rain")
    image: Array = canvas.bgr
    mean = float(image.mean())
    image = (image - mean) * rng.uniform(0.75, 1.2) + mean * rng.uniform(0.8, 1.15)
    image *= rng.uniform(0.94, 1.06, 3).astype(np.float32)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, canvas.camera.width)[None]
    image *= (1 - rng.uniform(0, 0.12) * (rows**2 + columns**2)).astype(np.float32)[:, :, None]
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.25, 0.7)) * height / 192)
    if rng.random() < 0.06:
        size = max(3, round(height / 60))
        image = cv2.blur(image, (size, 1))
        tags.append("motion-blur")
    sigma = rng.uniform(4, 9) if dark else rng.uniform(1, 5)
    image = image + rng.normal(0, sigma, image.shape).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8), tags
