"""Drawing surfaces of the synthetic streets: a pinhole camera, an oversampled layer, and the picture itself.

World coordinates are metres: X to the right of the camera, Y up from the road, Z ahead. Picture coordinates
are pixels, x right and y down. Colours are BGR in 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
_SUBPIXEL_BITS = 4
CAMERA_HEIGHT_M = 1.3
# A pixel belongs to a thing when the thing covers at least this share of it.
_COVERED = 0.4


@dataclass(frozen=True)
class Camera:
    """Pinhole camera level with the road; `focal` is in picture heights, the vanishing point in pixels."""

    height: int
    width: int
    horizon_y: float
    vanish_x: float
    focal: float

    @property
    def focal_px(self) -> float:
        return self.focal * self.height

    def project(self, points: object) -> Array:
        """World points [n, 3] (metres) -> picture points [n, 2] (pixels)."""
        world = np.asarray(points, np.float32).reshape(-1, 3)
        z = np.maximum(world[:, 2], 0.3)
        x = self.vanish_x + self.focal_px * world[:, 0] / z
        y = self.horizon_y + self.focal_px * (CAMERA_HEIGHT_M - world[:, 1]) / z
        return np.stack([x, y], 1).astype(np.float32)


@dataclass(frozen=True)
class Footprint:
    """Where one thing fell on the picture, before anything nearer was drawn over it.

    box_px: extent x0, y0, x1, y1, beyond the border too. full_px: pixels covered, beyond the border too.
    mask: those inside the picture, its first row and column at `corner`.
    """

    ident: int
    box_px: tuple[float, float, float, float]
    full_px: int
    corner: tuple[int, int]
    mask: NDArray[np.bool_]

    @property
    def inside_px(self) -> int:
        return int(self.mask.sum())


class Layer:
    """Scratch pad for one thing: BGR premultiplied by coverage, drawn `oversampling` times too large."""

    def __init__(self, box_px: tuple[float, float, float, float], oversampling: int) -> None:
        self.x0, self.y0 = int(np.floor(box_px[0])), int(np.floor(box_px[1]))
        self.width = max(1, int(np.ceil(box_px[2])) - self.x0)
        self.height = max(1, int(np.ceil(box_px[3])) - self.y0)
        self.oversampling = oversampling
        self.pixels = np.zeros((self.height * oversampling, self.width * oversampling, 4), np.uint8)

    def _fixed(self, points: Array) -> NDArray[np.int32]:
        scaled = (np.asarray(points, np.float32) - (self.x0, self.y0)) * self.oversampling - 0.5
        bound = 8 * max(self.pixels.shape[:2])
        fixed = np.clip(scaled, -bound, bound) * (1 << _SUBPIXEL_BITS)
        return np.round(fixed).astype(np.int32)

    def polygon(self, points: Array, colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [self._fixed(points)], (*colour, 255), cv2.LINE_8, _SUBPIXEL_BITS)

    def hull(self, points: Array, colour: Colour) -> None:
        self.polygon(cv2.convexHull(np.asarray(points, np.float32))[:, 0], colour)

    def line(self, points: Array, width_px: float, colour: Colour, closed: bool = False) -> None:
        thickness = max(1, round(width_px * self.oversampling))
        fixed = [self._fixed(points)]
        cv2.polylines(self.pixels, fixed, closed, (*colour, 255), thickness, cv2.LINE_8, _SUBPIXEL_BITS)

    def limb(self, start: Array, end: Array, start_px: float, end_px: float, colour: Colour) -> None:
        """A tapered bar with round ends; start_px and end_px are its radii."""
        turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
        ring = np.stack([np.cos(turn), np.sin(turn)], 1)
        self.hull(np.concatenate([start + ring * start_px, end + ring * end_px]), colour)

    def ellipse(self, centre: Array, radii_px: tuple[float, float], colour: Colour) -> None:
        turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        ring = np.stack([np.cos(turn), np.sin(turn)], 1)
        self.polygon(np.asarray(centre, np.float32) + ring * np.asarray(radii_px), colour)

    def shade(self, rng: np.random.Generator, strength: float) -> None:
        """Volume and cloth: a sideways gradient and soft blotches on whatever has been drawn."""
        height, width = self.pixels.shape[:2]
        gradient = np.linspace(-1, 1, width, dtype=np.float32)[None] * rng.uniform(-1, 1) * strength
        coarse = rng.normal(0, strength, (max(2, height // 24), max(2, width // 24))).astype(np.float32)
        gain = 1 + gradient + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        lit = self.pixels[:, :, :3] * gain[:, :, None]
        self.pixels[:, :, :3] = np.clip(lit, 0, 255).astype(np.uint8)

    def extent_px(self) -> tuple[float, float, float, float] | None:
        """Box of everything drawn so far, in picture pixels; None when nothing was drawn."""
        rows = np.flatnonzero(self.pixels[:, :, 3].any(1))
        columns = np.flatnonzero(self.pixels[:, :, 3].any(0))
        if not len(rows):
            return None
        scale = 1.0 / self.oversampling
        return (
            float(self.x0 + columns[0] * scale),
            float(self.y0 + rows[0] * scale),
            float(self.x0 + (columns[-1] + 1) * scale),
            float(self.y0 + (rows[-1] + 1) * scale),
        )

    def reduced(self) -> Array:
        """[height, width, 4] float32: premultiplied BGR and coverage 0..255 at picture resolution."""
        if self.oversampling == 1:
            return self.pixels.astype(np.float32)
        small = cv2.resize(self.pixels, (self.width, self.height), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32)


class Canvas:
    """The picture while it is painted from far to near, with what stands at each pixel.

    bgr [H, W, 3] and glow [H, W, 3] (light sources of the night) in 0..255, depth_m [H, W] metres, owner
    [H, W] the ident of the nearest thing (0: scenery).
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        shape = (camera.height, camera.width)
        self.bgr = np.zeros((*shape, 3), np.float32)
        self.glow = np.zeros((*shape, 3), np.float32)
        self.depth_m = np.full(shape, 1e3, np.float32)
        self.owner = np.zeros(shape, np.int32)
        self._idents = 0

    def layer(self, box_px: tuple[float, float, float, float], whole: bool = False) -> Layer:
        """A layer for `box_px`, cut at the picture's border unless the `whole` thing must be measured."""
        x0, y0, x1, y1 = box_px
        if not whole:
            x0, x1 = np.clip([x0, x1], -2, self.camera.width + 2)
            y0, y1 = np.clip([y0, y1], -2, self.camera.height + 2)
        size = max(x1 - x0, y1 - y0)
        return Layer((x0, y0, x1, y1), 4 if size < 96 else 2 if size < 700 else 1)

    def paste(self, layer: Layer, depth_m: float | Array, opacity: float = 1.0) -> Footprint | None:
        """Draw `layer` over the picture; None when nothing was drawn on it."""
        extent = layer.extent_px()
        if extent is None:
            return None
        self._idents += 1
        sprite = layer.reduced()
        mask = sprite[:, :, 3] >= 255 * _COVERED
        x0, x1 = max(0, layer.x0), min(self.camera.width, layer.x0 + layer.width)
        y0, y1 = max(0, layer.y0), min(self.camera.height, layer.y0 + layer.height)
        if x0 >= x1 or y0 >= y1:
            return Footprint(self._idents, extent, int(mask.sum()), (0, 0), np.zeros((0, 0), np.bool_))
        part = (slice(y0 - layer.y0, y1 - layer.y0), slice(x0 - layer.x0, x1 - layer.x0))
        here = (slice(y0, y1), slice(x0, x1))
        cover = sprite[part][:, :, 3:] * (opacity / 255)
        self.bgr[here] = sprite[part][:, :, :3] * opacity + self.bgr[here] * (1 - cover)
        inside = mask[part]
        if opacity > 0.5:
            self.glow[here] *= 1 - cover
            self.owner[here][inside] = self._idents
            depth = depth_m if isinstance(depth_m, float) else depth_m[here][inside]
            self.depth_m[here][inside] = depth
        return Footprint(self._idents, extent, int(mask.sum()), (y0, x0), inside)

    def shine(self, centre: Array, radius_px: float, colour: Colour) -> None:
        """Add a light source to the glow of the night."""
        point = (round(float(centre[0]) * 16), round(float(centre[1]) * 16))
        if max(abs(point[0]), abs(point[1])) < 1 << 20:
            cv2.circle(self.glow, point, max(8, int(radius_px * 16)), colour, -1, cv2.LINE_AA, 4)

    def visible_px(self, footprint: Footprint, *own: Footprint) -> int:
        """Pixels of `footprint` still seen; its `own` parts (a rider on his vehicle) do not hide it."""
        if footprint.mask.size == 0:
            return 0
        (y, x), (height, width) = footprint.corner, footprint.mask.shape
        owner = self.owner[y : y + height, x : x + width]
        seen = np.isin(owner, [part.ident for part in (footprint, *own)])
        return int((seen & footprint.mask).sum())
