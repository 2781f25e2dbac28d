"""What stands in the synthetic streets: cars, trees, lamps, and things easily mistaken for persons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spnas_hw.detection.datasets.streets.canvas import Array, Canvas, Colour, Layer
from spnas_hw.detection.datasets.streets.figures import cloth

Draw = Callable[[Canvas], None]
_PAINTS: tuple[Colour, ...] = (
    (40, 40, 42),
    (225, 225, 225),
    (150, 150, 152),
    (95, 95, 98),
    (40, 35, 150),
    (130, 70, 35),
    (60, 90, 60),
    (190, 200, 205),
)


def _bounds(points: Array, margin_px: float = 2.0) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = points.min(0) - margin_px, points.max(0) + margin_px
    return float(x0), float(y0), float(x1), float(y1)


def shadow(canvas: Canvas, x_m: float, z_m: float, wide_m: float, long_m: float) -> None:
    """The dark patch on the ground that ties a thing to it."""
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([x_m + wide_m / 2 * np.cos(turn), 0 * turn, z_m + long_m / 2 * np.sin(turn)], 1)
    points = canvas.camera.project(ring)
    layer = canvas.layer(_bounds(points))
    layer.polygon(points, (30, 28, 26))
    canvas.paste(layer, z_m, opacity=0.45)


def _gain(colour: Colour, gain: float) -> Colour:
    return min(250.0, colour[0] * gain), min(250.0, colour[1] * gain), min(250.0, colour[2] * gain)


def car(rng: np.random.Generator, x_m: float, z_m: float, oncoming: bool) -> Draw:
    """A car, van or estate parallel to the street, its nearer end at z_m."""
    paint = _gain(_PAINTS[rng.integers(len(_PAINTS))], float(rng.uniform(0.8, 1.1)))
    van = rng.random() < 0.2
    length, wide = (5.2, 1.95) if van else (float(rng.uniform(3.8, 4.7)), 1.78)
    top = 2.1 if van else float(rng.uniform(1.4, 1.65))
    waist = 0.95
    lights_on = rng.random() < 0.4

    def draw(canvas: Canvas) -> None:
        shadow(canvas, x_m, z_m + length / 2, wide * 1.25, length * 1.1)
        camera = canvas.camera
        inner = x_m - np.sign(x_m) * wide / 2 if abs(x_m) > wide / 2 else x_m
        outer = 2 * x_m - inner
        if abs(x_m) <= wide / 2:
            inner, outer = x_m - wide / 2, x_m + wide / 2
        corners = [(x, y, z) for x in (inner, outer) for y in (0, top) for z in (z_m, z_m + length)]
        layer = canvas.layer(_bounds(camera.project(corners)))
        slope = 0.25 if van else 0.55
        cabin = (z_m + (0.1 if van else 0.35), z_m + length * (0.85 if van else 0.72))

        def flat(points: object, colour: Colour) -> None:
            layer.polygon(camera.project(points), colour)

        # Roof and rear window first, then the side towards the road, then the end towards the camera.
        roof = [(inner, top, cabin[0] + slope), (outer, top, cabin[0] + slope)]
        flat([*roof, (outer, top, cabin[1] - slope), (inner, top, cabin[1] - slope)], _gain(paint, 1.15))
        flat(
            [(inner, waist, z_m), (outer, waist, z_m), (outer, waist, z_m + 0.6), (inner, waist, z_m + 0.6)],
            paint,
        )
        side = _gain(paint, 0.85)
        flat(
            [
                (inner, 0.3, z_m),
                (inner, waist, z_m),
                (inner, waist, z_m + length),
                (inner, 0.3, z_m + length),
            ],
            side,
        )
        glass_side = [
            (inner, waist, cabin[0]),
            (inner, top, cabin[0] + slope),
            (inner, top, cabin[1] - slope),
        ]
        flat([*glass_side, (inner, waist, cabin[1] + 0.2)], _gain(paint, 0.8))
        low = [(inner, waist + 0.05, cabin[0] + 0.2), (inner, top - 0.1, cabin[0] + slope + 0.05)]
        flat([*low, (inner, top - 0.1, cabin[1] - slope), (inner, waist + 0.05, cabin[1])], (70, 60, 50))
        turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        for middle in (z_m + 0.75, z_m + length - 0.8):
            for radius, colour in ((0.32, (25, 25, 25)), (0.17, (135, 135, 135))):
                rim = np.stack(
                    [np.full(14, inner), 0.32 + radius * np.sin(turn), middle + radius * np.cos(turn)], 1
                )
                flat(rim, colour)
        _car_end(
            canvas, layer, (inner, outer, waist, top), (z_m, cabin[0] + slope), paint, oncoming, lights_on
        )
        canvas.paste(layer, float(z_m + length / 3))
        if lights_on:
            _car_lights(canvas, inner, outer, z_m, oncoming)

    return draw


def _car_end(
    canvas: Canvas,
    layer: Layer,
    span: tuple[float, float, float, float],
    depth: tuple[float, float],
    paint: Colour,
    oncoming: bool,
    lights_on: bool,
) -> None:
    inner, outer, waist, top = span
    z, z_roof = depth
    wide = outer - inner

    def flat(x0: float, x1: float, y0: float, y1: float, colour: Colour) -> None:
        points = [(inner + wide * x, y, z) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        layer.polygon(canvas.camera.project(points), colour)

    screen = [
        (inner, waist, z),
        (outer, waist, z),
        (outer - wide * 0.12, top, z_roof),
        (inner + wide * 0.12, top, z_roof),
    ]
    layer.polygon(canvas.camera.project(screen), _gain(paint, 0.9))
    glass = [(inner + wide * a, waist + (top - waist) * b, z + (z_roof - z) * b) for a, b in
             ((0.07, 0.1), (0.93, 0.1), (0.84, 0.9), (0.16, 0.9))]  # fmt: skip
    layer.polygon(canvas.camera.project(glass), (85, 75, 62))
    flat(0, 1, 0.28, waist, _gain(paint, 0.97))
    flat(0, 1, 0.28, 0.42, (45, 45, 45))
    flat(0.04, 0.2, 0.0, 0.3, (22, 22, 22))
    flat(0.8, 0.96, 0.0, 0.3, (22, 22, 22))
    flat(0.36, 0.64, 0.5, 0.62, (215, 225, 225))
    lamp = (235.0, 240.0, 240.0) if oncoming else (40.0, 40.0, 225.0 if lights_on else 150.0)
    flat(0.03, 0.17, 0.62, 0.8, lamp)
    flat(0.83, 0.97, 0.62, 0.8, lamp)


def _car_lights(canvas: Canvas, inner: float, outer: float, z_m: float, oncoming: bool) -> None:
    colour = (235.0, 245.0, 255.0) if oncoming else (20.0, 20.0, 230.0)
    radius = canvas.camera.focal_px * (0.22 if oncoming else 0.11) / z_m
    for share in (0.1, 0.9):
        centre = canvas.camera.project([(inner + (outer - inner) * share, 0.72, z_m)])[0]
        canvas.shine(centre, radius, colour)


def tree(rng: np.random.Generator, x_m: float, z_m: float) -> Draw:
    height, crown = float(rng.uniform(4.5, 9)), float(rng.uniform(1.3, 2.4))
    trunk = float(rng.uniform(0.1, 0.22))
    green = np.asarray(
        ((45, 95, 70), (40, 120, 90), (50, 110, 140), (40, 75, 50))[rng.integers(4)], np.float32
    )
    leaves = rng.normal(0, 1, (40, 3))
    tones = rng.uniform(0.65, 1.25, 40)

    def draw(canvas: Canvas) -> None:
        shadow(canvas, x_m, z_m, crown, crown)
        unit = canvas.camera.focal_px / z_m
        foot, fork = canvas.camera.project([(x_m, 0, z_m), (x_m, height * 0.6, z_m)])
        box = canvas.camera.project([(x_m - crown * 2.5, 0, z_m), (x_m + crown * 2.5, height + crown, z_m)])
        layer = canvas.layer(_bounds(box))
        layer.limb(foot, fork, trunk * unit, trunk * 0.7 * unit, (50, 62, 75))
        for (dx, dy, size), tone in zip(leaves, tones, strict=True):
            middle = canvas.camera.project(
                [(x_m + dx * crown * 0.55, height * 0.8 + dy * crown * 0.45, z_m)]
            )[0]
            radius = crown * (0.32 + 0.08 * abs(size)) * unit
            b, g, r = green * tone
            layer.ellipse(middle, (radius, radius * 0.8), (float(b), float(g), float(r)))
        canvas.paste(layer, z_m)

    return draw


def lamp_post(x_m: float, z_m: float) -> Draw:
    def draw(canvas: Canvas) -> None:
        unit = canvas.camera.focal_px / z_m
        arm = -np.sign(x_m) * 1.3
        joints = canvas.camera.project([(x_m, 0, z_m), (x_m, 6.2, z_m), (x_m + arm, 6.5, z_m)])
        layer = canvas.layer(_bounds(joints, 0.3 * unit + 2))
        layer.limb(joints[0], joints[1], 0.09 * unit, 0.06 * unit, (88, 92, 90))
        layer.limb(joints[1], joints[2], 0.05 * unit, 0.05 * unit, (88, 92, 90))
        layer.ellipse(joints[2], (0.28 * unit, 0.1 * unit), (150, 155, 155))
        canvas.paste(layer, z_m)
        canvas.shine(joints[2], 0.26 * unit, (170.0, 220.0, 255.0))

    return draw


def sign(rng: np.random.Generator, x_m: float, z_m: float) -> Draw:
    """A traffic sign: round, triangular or square, on a post of a person's width and more than his height."""
    kind, height = int(rng.integers(3)), float(rng.uniform(2.0, 2.8))
    paint: Colour = ((60, 50, 200), (190, 90, 30), (60, 190, 230))[rng.integers(3)]

    def draw(canvas: Canvas) -> None:
        unit = canvas.camera.focal_px / z_m
        foot, head = canvas.camera.project([(x_m, 0, z_m), (x_m, height, z_m)])
        layer = canvas.layer(_bounds(np.stack([foot, head]), 0.4 * unit + 2))
        layer.limb(foot, head, 0.035 * unit, 0.035 * unit, (130, 132, 130))
        sides = (20, 3, 4)[kind]
        turn = np.linspace(0, 2 * np.pi, sides, endpoint=False) - np.pi / (4 if sides == 4 else 2)
        ring = np.stack([np.cos(turn), np.sin(turn)], 1)
        layer.polygon(head + ring * 0.34 * unit, paint)
        layer.polygon(head + ring * 0.24 * unit, (235, 238, 238) if kind < 2 else _gain(paint, 0.8))
        canvas.paste(layer, z_m)

    return draw


def upright(rng: np.random.Generator, x_m: float, z_m: float) -> Draw:
    """Bollard, bin, wheeled bin, hydrant or advertising column: tall and narrow like a person."""
    kind = int(rng.integers(4))
    radius = (0.09, 0.28, 0.16, 0.5)[kind] * float(rng.uniform(0.85, 1.15))
    height = (1.0, 1.1, 0.9, 2.6)[kind] * float(rng.uniform(0.85, 1.15))
    body, band, cap = cloth(rng), cloth(rng), bool(rng.random() < 0.5)

    def draw(canvas: Canvas) -> None:
        unit = canvas.camera.focal_px / z_m
        shadow(canvas, x_m, z_m, radius * 3, radius * 3)
        foot, top = canvas.camera.project([(x_m, 0.02, z_m), (x_m, height, z_m)])
        layer = canvas.layer(_bounds(np.stack([foot, top]), (radius * 1.5 + 0.2) * unit + 2))
        wide = np.array([radius * unit, 0], np.float32)
        layer.polygon(np.stack([foot - wide, foot + wide, top + wide, top - wide]), body)
        low, high = foot + (top - foot) * 0.62, foot + (top - foot) * 0.8
        layer.polygon(np.stack([low - wide, low + wide, high + wide, high - wide]), band)
        if cap:
            layer.ellipse(top, (radius * 1.12 * unit, radius * 0.7 * unit), _gain(body, 0.7))
        layer.shade(rng, 0.15)
        canvas.paste(layer, z_m)

    return draw
