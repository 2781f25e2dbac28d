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
_TWELFTHS, _TWENTIETHS = (
    np.stack([np.cos(turn), np.sin(turn)], 1)
    for turn in (np.linspace(0, 2 * np.pi, count, endpoint=False) for count in (12, 20))
)
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
        picture = np.empty((len(world), 2), np.float32)
        picture[:, 0] = self.vanish_x + self.focal_px * world[:, 0] / z
        picture[:, 1] = self.horizon_y + self.focal_px * (CAMERA_HEIGHT_M - world[:, 1]) / z
        return picture


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
        self._origin = np.array([self.x0, self.y0], np.float64)
        self._bound = 8.0 * max(self.pixels.shape[:2])  # beyond it OpenCV's fixed point would overflow

    def _fixed(self, points: Array) -> NDArray[np.int32]:
        scaled = (np.asarray(points, np.float32) - self._origin) * self.oversampling - 0.5
        bounded = np.minimum(np.maximum(scaled, -self._bound), self._bound)
        return np.rint(bounded * (1 << _SUBPIXEL_BITS)).astype(np.int32)

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
        self.hull(np.concatenate([start + _TWELFTHS * start_px, end + _TWELFTHS * end_px]), colour)

    def ellipse(self, centre: Array, radii_px: tuple[float, float], colour: Colour) -> None:
        self.polygon(np.asarray(centre, np.float32) + _TWENTIETHS * np.asarray(radii_px), colour)

    def shade(self, rng: np.random.Generator, strength: float) -> None:
        """Volume and cloth: a sideways gradient and soft blotches on whatever has been drawn."""
        height, width = self.pixels.shape[:2]
        gradient = np.linspace(-1, 1, width, dtype=np.float32)[None] * rng.uniform(-1, 1) * strength
        coarse = rng.normal(0, strength, (max(2, height // 24), max(2, width // 24))).astype(np.float32)
        gain = 1 + gradient + cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
        drawn = self._drawn()
        lit = self.pixels[drawn][:, :, :3] * gain[drawn][:, :, None]
        self.pixels[drawn][:, :, :3] = np.clip(lit, 0, 255).astype(np.uint8)

    def extent_px(self) -> tuple[float, float, float, float] | None:
        """Box of everything drawn so far, in picture pixels; None when nothing was drawn."""
        rows, columns = self._drawn()
        if rows.start == rows.stop:
            return None
        scale = 1.0 / self.oversampling
        return (
            self.x0 + columns.start * scale,
            self.y0 + rows.start * scale,
            self.x0 + columns.stop * scale,
            self.y0 + rows.stop * scale,
        )

    def sprite(self) -> tuple[int, int, Array]:
        """What was drawn, at picture resolution: left, top, and [h, w, 4] float32 (premultiplied
        BGR and coverage, 0..255)."""
        times = self.oversampling
        rows, columns = self._drawn()
        (top, bottom), (left, right) = ((s.start // times, -(-s.stop // times)) for s in (rows, columns))
        pixels = self.pixels[top * times : bottom * times, left * times : right * times]
        if times > 1 and pixels.size:
            pixels = cv2.resize(pixels, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
        return self.x0 + left, self.y0 + top, pixels.astype(np.float32)

    def _drawn(self) -> tuple[slice, slice]:
        """Rows and columns of `pixels` that hold everything drawn so far."""
        x, y, width, height = cv2.boundingRect(cv2.extractChannel(self.pixels, 3))
        return slice(y, y + height), slice(x, x + width)


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
        left, top, sprite = layer.sprite()
        mask = sprite[:, :, 3] >= 255 * _COVERED
        x0, x1 = max(0, left), min(self.camera.width, left + sprite.shape[1])
        y0, y1 = max(0, top), min(self.camera.height, top + sprite.shape[0])
        if x0 >= x1 or y0 >= y1:
            return Footprint(self._idents, extent, int(mask.sum()), (0, 0), np.zeros((0, 0), np.bool_))
        part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
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
