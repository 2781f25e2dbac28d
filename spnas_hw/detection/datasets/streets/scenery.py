"""What never moves in the synthetic streets: sky, road with markings, pavements, buildings."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from spnas_hw.detection.datasets.streets.canvas import CAMERA_HEIGHT_M, Array, Camera, Canvas, Colour, Layer

FAR_M = 140.0
_FACADES: tuple[Colour, ...] = (
    (150, 175, 195),
    (110, 135, 165),
    (90, 105, 150),
    (170, 170, 165),
    (140, 190, 215),
    (95, 100, 105),
    (185, 200, 205),
    (100, 125, 120),
)


@dataclass(frozen=True)
class Street:
    """The cross-section of the street, in metres from its middle; the camera drives at X = 0."""

    left_kerb_m: float
    right_kerb_m: float
    pavement_m: float
    crossing_z_m: float | None

    @property
    def left_wall_m(self) -> float:
        return self.left_kerb_m - self.pavement_m

    @property
    def right_wall_m(self) -> float:
        return self.right_kerb_m + self.pavement_m


def sample_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    return Camera(
        height=height,
        width=width,
        horizon_y=float(rng.uniform(0.38, 0.46) * height),
        vanish_x=float(rng.uniform(0.38, 0.62) * width),
        focal=float(rng.uniform(0.95, 1.1)),
    )


def sample_street(rng: np.random.Generator) -> Street:
    return Street(
        left_kerb_m=-float(rng.uniform(4.5, 8.0)),
        right_kerb_m=float(rng.uniform(2.6, 5.0)),
        pavement_m=float(rng.uniform(2.8, 5.5)),
        crossing_z_m=float(rng.uniform(5, 25)) if rng.random() < 0.45 else None,
    )


def quad(canvas: Canvas, layer: Layer, corners: object, colour: Colour) -> None:
    """A flat polygon of world points."""
    layer.polygon(canvas.camera.project(corners), colour)


def paint_sky(canvas: Canvas, rng: np.random.Generator) -> Colour:
    """Gradient and clouds over the whole picture; returns the colour at the horizon (that of haze)."""
    top, bottom = (
        ((205, 150, 90), (235, 215, 190)),
        ((190, 180, 170), (215, 212, 208)),
        ((150, 140, 135), (185, 182, 180)),
        ((170, 130, 120), (150, 190, 235)),
    )[rng.integers(4)]
    rows = np.linspace(0, 1, canvas.camera.height, dtype=np.float32)[:, None, None]
    share = np.clip(rows * canvas.camera.height / canvas.camera.horizon_y, 0, 1)
    canvas.bgr[:] = np.asarray(top, np.float32) * (1 - share) + np.asarray(bottom, np.float32) * share
    clouds = _blotches(rng, canvas.camera.height, canvas.camera.width, (6, 10))
    canvas.bgr += np.clip(clouds, 0, 2)[:, :, None] * 22
    return float(bottom[0]), float(bottom[1]), float(bottom[2])


def _blotches(rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]) -> Array:
    """Smooth noise of unit variance, the same picture at every size."""
    coarse = rng.normal(0, 1, cells).astype(np.float32)
    fine = rng.normal(0, 0.5, (cells[0] * 3, cells[1] * 3)).astype(np.float32)
    size = (width, height)
    smooth: Array = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    smooth += cv2.resize(fine, size, interpolation=cv2.INTER_CUBIC)
    return smooth


def _full_layer(canvas: Canvas) -> Layer:
    camera = canvas.camera
    return Layer(
        (0, 0, camera.width, camera.height), 3 if camera.height < 400 else 2 if camera.height < 800 else 1
    )


def paint_ground(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Road, pavements, kerbs, lane markings, a zebra crossing, patches of asphalt."""
    camera = canvas.camera
    layer = _full_layer(canvas)
    asphalt = float(rng.uniform(75, 125))
    paving = float(rng.uniform(120, 180))

    def strip(x0: float, x1: float, z0: float, z1: float, colour: Colour, y: float = 0.0) -> None:
        quad(canvas, layer, [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], colour)

    strip(-400, 400, 0.4, FAR_M * 3, (paving * 0.95, paving, paving * 1.02))
    for z in np.geomspace(1.5, 60, 26):
        strip(-60, 60, float(z), float(z) * 1.008 + 0.01, (paving * 0.85, paving * 0.88, paving * 0.9))
    strip(street.left_kerb_m - 0.2, street.right_kerb_m + 0.2, 0.4, FAR_M * 2, (190, 195, 195))
    strip(street.left_kerb_m, street.right_kerb_m, 0.4, FAR_M * 2, (asphalt * 1.04, asphalt, asphalt * 0.97))
    for _ in range(rng.integers(1, 5)):
        x, z = rng.uniform(street.left_kerb_m, street.right_kerb_m - 1), rng.uniform(3, 25)
        gain = rng.uniform(0.75, 1.15) * asphalt
        strip(x, x + rng.uniform(0.5, 1.5), z, z + rng.uniform(1, 8), (gain, gain, gain))
    if rng.random() < 0.8:
        middle = (street.left_kerb_m + street.right_kerb_m) / 2
        for z in np.arange(1.5 + rng.uniform(0, 3), 70, 6.0):
            strip(middle - 0.08, middle + 0.08, float(z), float(z) + 3.0, (215, 220, 222))
    if street.crossing_z_m is not None:
        z = street.crossing_z_m
        for x in np.arange(street.left_kerb_m + 0.2, street.right_kerb_m - 0.4, 1.0):
            strip(float(x), float(x) + 0.5, z, z + 3.5, (222, 226, 228))
    rows = np.arange(camera.height, dtype=np.float32)[:, None] + 0.5
    depth = camera.focal_px * CAMERA_HEIGHT_M / np.maximum(rows - camera.horizon_y, 0.5)
    canvas.paste(layer, np.broadcast_to(depth, canvas.depth_m.shape))
    ground = rows > camera.horizon_y
    grain = rng.normal(0, 3.5, canvas.depth_m.shape).astype(np.float32) + 6 * _blotches(
        rng, camera.height, camera.width, (24, 16)
    )
    canvas.bgr += (grain * ground)[:, :, None]


def paint_skyline(canvas: Canvas, rng: np.random.Generator, haze: Colour) -> None:
    """Roofs and tree tops behind the end of the street."""
    layer = _full_layer(canvas)
    x = -130.0
    while x < 130.0:
        wide, high = float(rng.uniform(6, 18)), float(rng.uniform(4, 16))
        gain = float(rng.uniform(0.55, 0.85))
        colour = (haze[0] * gain, haze[1] * gain, haze[2] * gain * 0.97)
        corners = [(x, 0, FAR_M), (x + wide, 0, FAR_M), (x + wide, high, FAR_M), (x, high, FAR_M)]
        quad(canvas, layer, corners, colour)
        x += wide * float(rng.uniform(0.7, 1.1))
    canvas.paste(layer, FAR_M)


def paint_buildings(canvas: Canvas, street: Street, rng: np.random.Generator) -> None:
    """Two rows of houses, from far to near, with gaps where the sky shows."""
    camera = canvas.camera
    columns = np.arange(camera.width, dtype=np.float32)[None] + 0.5
    for wall in (street.left_wall_m, street.right_wall_m):
        layer, lights = _full_layer(canvas), _full_layer(canvas)
        ends = [1.0]
        while ends[-1] < 75:
            ends.append(ends[-1] + float(rng.uniform(7, 18)))
        for z0, z1 in zip(ends[-2::-1], ends[:0:-1], strict=True):
            if rng.random() < 0.9:
                _house(canvas, layer, lights, rng, wall, z0, z1)
        depth = camera.focal_px * abs(wall) / np.maximum(abs(columns - camera.vanish_x), 0.5)
        canvas.paste(layer, np.broadcast_to(np.minimum(depth, FAR_M), canvas.depth_m.shape))
        left, top, shown = lights.sprite()
        canvas.glow[top : top + shown.shape[0], left : left + shown.shape[1]] += shown[:, :, :3]


def _house(
    canvas: Canvas, layer: Layer, lights: Layer, rng: np.random.Generator, wall: float, z0: float, z1: float
) -> None:
    facade = np.asarray(_FACADES[rng.integers(len(_FACADES))]) * rng.uniform(0.7, 1.1)
    floor_m = float(rng.uniform(2.9, 3.6))
    height = 3.8 + floor_m * int(rng.integers(1, 5))
    glass = (95.0, 80.0, 62.0) if rng.random() < 0.6 else (150.0, 140.0, 125.0)

    def face(z_from: float, z_to: float, y0: float, y1: float, colour: object, on: Layer = layer) -> None:
        b, g, r = np.minimum(np.maximum(np.asarray(colour, np.float32), 0), 250).tolist()
        quad(
            canvas,
            on,
            [(wall, y0, z_from), (wall, y1, z_from), (wall, y1, z_to), (wall, y0, z_to)],
            (b, g, r),
        )

    # The end wall towards the camera shows where the next house nearer is lower or missing.
    away = wall + np.sign(wall) * 12
    b, g, r = (float(v) for v in facade * 0.72)
    quad(canvas, layer, [(wall, 0, z0), (away, 0, z0), (away, height, z0), (wall, height, z0)], (b, g, r))
    face(z0, z1, 0, height, facade)
    face(z0, z1, height - 0.35, height, facade * 0.8)
    face(z0, z1, 0, 3.5, facade * rng.uniform(0.6, 0.95))
    pitch = float(rng.uniform(2.0, 3.2))
    shops = rng.random() < 0.6
    awning = rng.uniform(40, 220, 3)
    for z in np.arange(z0 + 0.6, z1 - 1.2, pitch):
        span = (float(z), float(z) + pitch * 0.5)
        for floor in range(int((height - 3.8) / floor_m + 0.5)):
            low = 4.2 + floor * floor_m
            face(span[0] - 0.08, span[1] + 0.08, low - 0.1, low + 1.75, facade * 1.18)
            face(*span, low, low + 1.6, np.asarray(glass) * rng.uniform(0.7, 1.2))
            if rng.random() < 0.3:
                face(*span, low, low + 1.6, np.array([70, 150, 205]) * rng.uniform(0.4, 1.0), lights)
        if shops:
            face(span[0], z + pitch * 0.85, 0.5, 2.7, np.asarray(glass) * rng.uniform(0.5, 1.3))
            face(span[0] - 0.1, z + pitch * 0.9, 2.7, 3.2, awning)
            if rng.random() < 0.35:
                face(
                    span[0],
                    z + pitch * 0.85,
                    0.5,
                    2.7,
                    np.array([110, 160, 190]) * rng.uniform(0.3, 0.9),
                    lights,
                )
        else:
            tall = rng.random() < 0.3
            face(*span, 0.05 if tall else 1.1, 2.3, np.asarray(glass) * (0.6 if tall else 1.0))
