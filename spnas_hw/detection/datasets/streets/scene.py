"""Composes one synthetic street scene and renders it: who stands where, painted from far to near."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spnas_hw.detection.datasets.streets import furniture, people
from spnas_hw.detection.datasets.streets.canvas import Camera, Canvas
from spnas_hw.detection.datasets.streets.light import haze, night, photograph
from spnas_hw.detection.datasets.streets.people import Mark
from spnas_hw.detection.datasets.streets.scenery import (
    Street,
    paint_buildings,
    paint_ground,
    paint_sky,
    paint_skyline,
    sample_camera,
    sample_street,
)

_STATURE_M = 1.7
_TALLEST = 0.72  # of the picture height: nearer, and the feet would be below the picture
_FARTHEST_M = 120.0
# A thing with less than this share left to see is not labelled: nobody could.
_LEAST_VISIBLE = 0.05
_GROUPS = ("person-group-far-away", "rider+vehicle-group-far-away", "bicycle-group", "motorbike-group")


@dataclass(frozen=True)
class Scene:
    """A rendered street: image [H, W, 3] uint8 BGR, and its label in the ECP format."""

    image: NDArray[np.uint8]
    label: dict[str, object]


def visibility_tags(full_px: int, inside_px: int, visible_px: int) -> list[str]:
    """ECP's tags of occlusion and truncation, from the pixels of the whole thing, inside, and seen."""
    shares = {
        "occluded": 1 - visible_px / max(inside_px, 1),
        "truncated": 1 - inside_px / max(full_px, 1),
    }
    tags = []
    for name, share in shares.items():
        bands = [band for band in (10, 40, 80) if share > band / 100]
        tags += [f"{name}>{bands[-1]}"] if bands else []
    return tags


def smallest_px(height: int) -> float:
    """Height of the smallest labelled person: 8 pixels in a picture 192 high, 12 in one 1024 high."""
    return float(np.interp(height, [192, 1024], [8, 12]))


def render_scene(rng: np.random.Generator, height: int, width: int, dark: bool) -> Scene:
    """One street seen from a car, by day or (`dark`) by night, `height` x `width` pixels."""
    camera, street = sample_camera(rng, height, width), sample_street(rng)
    canvas = Canvas(camera)
    horizon = paint_sky(canvas, rng)
    paint_skyline(canvas, rng, horizon)
    paint_ground(canvas, street, rng)
    paint_buildings(canvas, street, rng)
    things, lamps = _furnish(rng, camera, street)
    things += _populate(rng, camera, street)
    marks = []
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        marks += draw(canvas) or []
    if dark:
        night(canvas, rng, lamps)
    else:
        haze(canvas, rng, horizon)
    image, tags = photograph(canvas, rng, dark)
    children = [entry for mark in marks if (entry := _entry(canvas, mark)) is not None]
    label = {
        "identity": "frame",
        "imagewidth": width,
        "imageheight": height,
        "tags": tags,
        "children": children,
    }
    return Scene(image, label)


Thing = tuple[float, furniture.Draw | people.DrawMarks]


def _furnish(
    rng: np.random.Generator, camera: Camera, street: Street
) -> tuple[list[Thing], list[tuple[float, float, float]]]:
    things: list[Thing] = []
    lamps = []
    for kerb, wall in ((street.left_kerb_m, street.left_wall_m), (street.right_kerb_m, street.right_wall_m)):
        outward = float(np.sign(kerb))
        z, density = float(rng.uniform(4, 12)), float(rng.uniform(0, 0.75))
        while z < 60:
            near_crossing = street.crossing_z_m is not None and abs(z - street.crossing_z_m) < 5
            if rng.random() < density and not near_crossing:
                x = kerb - outward * 1.0
                things.append((z, furniture.car(rng, x, z, oncoming=outward < 0 and rng.random() < 0.6)))
            z += float(rng.uniform(5.2, 7.5))
        z, greenery = float(rng.uniform(5, 15)), float(rng.uniform(0, 0.8))
        while z < 90:
            if rng.random() < greenery:
                things.append((z, furniture.tree(rng, kerb + outward * 0.7, z)))
            z += float(rng.uniform(7, 12))
        z = float(rng.uniform(8, 20))
        while z < 90:
            things.append((z, furniture.lamp_post(kerb + outward * 0.4, z)))
            lamps.append((kerb - outward * 0.9, 6.4, z))
            z += float(rng.uniform(18, 26))
        for _ in range(int(rng.poisson(4))):
            z = float(np.exp(rng.uniform(np.log(3.5), np.log(55))))
            x = kerb + outward * float(rng.uniform(0.3, street.pavement_m - 0.5))
            make = furniture.sign if rng.random() < 0.3 else furniture.upright
            things.append((z, make(rng, x, z)))
        if rng.random() < 0.25:
            z = float(rng.uniform(8, 40))
            things.append((z, people.parked(rng, (kerb + wall) / 2, z)))
        if rng.random() < 0.15:
            z = float(rng.uniform(5, 25))
            things.append((z, people.poster(rng, wall - outward * 0.8, z)))
    for _ in range(int(rng.poisson(0.7))):
        z, oncoming = float(rng.uniform(9, 70)), bool(rng.random() < 0.5)
        lane = street.left_kerb_m / 2 if oncoming else street.right_kerb_m / 2 - 0.6
        things.append((z, furniture.car(rng, lane, z, oncoming)))
    return things, lamps[:6]


def _populate(rng: np.random.Generator, camera: Camera, street: Street) -> list[Thing]:
    """Up to eight people, from near to far evenly on a logarithmic scale, some of them in company; a few
    streets are empty."""
    things: list[Thing] = []
    nearest = camera.focal * _STATURE_M / _TALLEST
    farthest = min(_FARTHEST_M, camera.focal_px * _STATURE_M / smallest_px(camera.height))
    wanted = 0 if rng.random() < 0.04 else 1 + min(7, int(rng.poisson(3.0)))
    while len(things) < wanted:
        z = float(np.exp(rng.uniform(np.log(nearest), np.log(farthest))))
        x = _sideways(rng, camera, street, z)
        rides = rng.random() < 0.32
        for _ in range(1 + int(not rides and rng.random() < 0.3)):
            things.append((z, _inhabitant(rng, street, x, z, rides)))
            x, z = x + float(rng.choice([-1, 1]) * rng.uniform(0.45, 0.9)), z * float(rng.uniform(0.96, 1.04))
    for riders, chance in ((False, 0.22), (True, 0.07)):
        if rng.random() < chance:
            z = min(_FARTHEST_M, farthest * float(rng.uniform(0.8, 1.1)))
            x = _sideways(rng, camera, street, z)
            things.append((z, people.far_group(rng, x, z, riders)))
    return things


def _sideways(rng: np.random.Generator, camera: Camera, street: Street, z: float) -> float:
    """A place across the street that is in the picture, seldom half outside."""
    margin = 0.15 * rng.random() ** 2
    left = (-camera.vanish_x / camera.focal_px - margin) * z
    right = ((camera.width - camera.vanish_x) / camera.focal_px + margin) * z
    left, right = max(left, street.left_wall_m + 0.5), min(right, street.right_wall_m - 0.5)
    return float(rng.uniform(min(left, right), max(left, right)))


def _inhabitant(
    rng: np.random.Generator, street: Street, x: float, z: float, rides: bool
) -> people.DrawMarks:
    on_road = street.left_kerb_m < x < street.right_kerb_m
    along = float(rng.choice([0.0, np.pi]) + rng.normal(0, 0.35))
    across = float(rng.choice([0.5, 1.5]) * np.pi + rng.normal(0, 0.35))
    child = not rides and rng.random() < 0.1
    stature = float(rng.uniform(1.1, 1.4) if child else np.clip(rng.normal(_STATURE_M, 0.09), 1.5, 1.95))
    if rides:
        return people.rider(rng, x, z, stature, along if rng.random() < 0.55 else across)
    special = rng.random()
    if not on_road and special < 0.05:
        return people.sitter(rng, x, z, stature, across)
    if not on_road and special < 0.09:
        return people.behind_glass(rng, x, z, stature)
    heading = across if rng.random() < (0.65 if on_road else 0.4) else along
    return people.person(rng, x, z, stature, heading, skates=0.09 <= special < 0.12)


def _entry(canvas: Canvas, mark: Mark) -> dict[str, object] | None:
    """The label of one mark; None when nothing of it can be seen."""
    first, *others = mark.footprints
    if mark.identity in _GROUPS:
        boxes = [footprint.box_px for footprint in mark.footprints]
        visible = sum(canvas.visible_px(footprint) for footprint in mark.footprints)
    else:  # `others` is the rider of a vehicle, who does not hide it
        boxes = [first.box_px]
        visible = canvas.visible_px(first, *others)
    if visible < max(1.0, _LEAST_VISIBLE * first.full_px):
        return None
    width, height = canvas.camera.width, canvas.camera.height
    x0, y0 = (min(box[axis] for box in boxes) for axis in (0, 1))
    x1, y1 = (max(box[axis] for box in boxes) for axis in (2, 3))
    entry: dict[str, object] = {
        "identity": mark.identity,
        "x0": round(max(0.0, x0), 1),
        "y0": round(max(0.0, y0), 1),
        "x1": round(min(float(width), x1), 1),
        "y1": round(min(float(height), y1), 1),
        "tags": list(mark.tags),
        "children": [entry for child in mark.children if (entry := _entry(canvas, child)) is not None],
    }
    if mark.identity not in _GROUPS:
        entry["tags"] = mark.tags + visibility_tags(first.full_px, first.inside_px, visible)
    if mark.orient_deg is not None:
        entry["orient"] = mark.orient_deg
    return entry
