"""The labelled inhabitants of the synthetic streets: how each is drawn, and what its label will say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from spnas_hw.detection.datasets.streets.canvas import Canvas, Colour, Footprint, Layer
from spnas_hw.detection.datasets.streets.figures import (
    Look,
    cloth,
    draw_bicycle,
    draw_motorbike,
    draw_person,
    figure_placement,
    sample_look,
    seated,
    walking,
)
from spnas_hw.detection.datasets.streets.furniture import shadow


@dataclass
class Mark:
    """A labelled thing on the canvas. A group has several footprints; a rider has his vehicle as a child."""

    identity: str
    footprints: list[Footprint]
    tags: list[str] = field(default_factory=list)
    orient_deg: float | None = None
    children: list[Mark] = field(default_factory=list)


DrawMarks = Callable[[Canvas], list[Mark]]


def _figure_layer(
    canvas: Canvas, x_m: float, z_m: float, half_wide_m: float, high_m: float
) -> tuple[Layer, tuple[float, float], float]:
    foot = canvas.camera.project([(x_m, 0, z_m)])[0]
    unit = canvas.camera.focal_px / z_m
    at = (float(foot[0]), float(foot[1]))
    box = (
        at[0] - half_wide_m * unit,
        at[1] - high_m * unit,
        at[0] + half_wide_m * unit,
        at[1] + 0.2 * unit + 1,
    )
    return canvas.layer(box, whole=True), at, unit


def _orient_deg(heading: float) -> float:
    return round(float(np.degrees(heading)) % 360, 1)


def person(
    rng: np.random.Generator,
    x_m: float,
    z_m: float,
    stature_m: float,
    heading: float,
    skates: bool = False,
) -> DrawMarks:
    """A pedestrian who stands or walks, or `skates` on a board."""
    look = sample_look(rng)
    pose = walking(rng, look, stature_m)
    board = cloth(rng) if skates else None

    def draw(canvas: Canvas) -> list[Mark]:
        shadow(canvas, x_m, z_m, 0.6, 0.5)
        layer, (x, y), unit = _figure_layer(canvas, x_m, z_m, 0.8, stature_m * 1.15)
        if board is not None:
            half = 0.2 + 0.22 * abs(float(np.sin(heading)))
            _panel(layer, (x, y), unit, (half, 0.03, 0.09), board)
            y -= 0.07 * unit
        draw_person(layer, figure_placement((x, y), unit, heading), look, pose, stature_m, heading)
        layer.shade(rng, 0.12)
        footprint = canvas.paste(layer, z_m)
        tags = ["skating"] if skates else []
        return [Mark("pedestrian", [footprint], tags, _orient_deg(heading))] if footprint else []

    return draw


def sitter(rng: np.random.Generator, x_m: float, z_m: float, stature_m: float, heading: float) -> DrawMarks:
    """Somebody sitting on a bench."""
    look, wood = sample_look(rng), cloth(rng)
    feet = np.array([[0.45, 0.1, 0.05], [0.42, -0.1, 0.05]], np.float32)
    pose = seated(
        rng, np.array([0, 0, 0.52], np.float32), float(rng.uniform(-0.1, 0.25)), None, feet, stature_m
    )

    def draw(canvas: Canvas) -> list[Mark]:
        shadow(canvas, x_m, z_m, 1.6, 0.6)
        layer, foot, unit = _figure_layer(canvas, x_m, z_m, 1.0, stature_m)
        base = np.asarray(foot, np.float32)

        def plank(y0: float, y1: float, half: float) -> None:
            corners = ((-half, y0), (half, y0), (half, y1), (-half, y1))
            layer.polygon(np.array([base + np.array([x, -y]) * unit for x, y in corners]), wood)

        for y0, y1, half in ((0.38, 0.46, 0.8), (0.62, 0.7, 0.8), (0.78, 0.86, 0.8)):
            plank(y0, y1, half)
        canvas.paste(layer, z_m + 0.2)
        layer, foot, unit = _figure_layer(canvas, x_m, z_m, 1.0, stature_m)
        draw_person(layer, figure_placement(foot, unit, heading), look, pose, stature_m, heading)
        layer.shade(rng, 0.12)
        footprint = canvas.paste(layer, z_m)
        return [Mark("pedestrian", [footprint], ["sitting-lying"], _orient_deg(heading))] if footprint else []

    return draw


def rider(rng: np.random.Generator, x_m: float, z_m: float, stature_m: float, heading: float) -> DrawMarks:
    """A person on a bicycle or motorbike, some with another behind; the vehicle and who sits behind are
    children of the rider's label."""
    motor = rng.random() < 0.25
    behind = sample_look(rng) if motor and rng.random() < 0.3 else None
    look: Look = sample_look(rng, helmet_prob=0.95 if motor else 0.4)
    paint: Colour = cloth(rng)
    turn = float(rng.uniform(0, 2 * np.pi))
    pedal = np.array([[np.cos(turn), 0, np.sin(turn)], [-np.cos(turn), 0, -np.sin(turn)]], np.float32) * 0.17
    feet = pedal + np.array([[-0.05, 0.12, 0.34], [-0.05, -0.12, 0.34]], np.float32)
    if motor:
        feet = np.array([[0.05, 0.2, 0.32], [0.05, -0.2, 0.32]], np.float32)
    hands = np.array([[0.4, 0.25, 1.05], [0.4, -0.25, 1.05]], np.float32)
    hip = np.array([-0.25, 0, 0.88 if motor else 0.98], np.float32)
    pose = seated(rng, hip, float(rng.uniform(0.1, 0.5)), hands, feet, stature_m)
    back = np.array([-0.4, 0, 0.06], np.float32)
    pose_behind = seated(rng, hip + back, 0.1, None, feet + back, stature_m) if behind else None

    def draw(canvas: Canvas) -> list[Mark]:
        shadow(canvas, x_m, z_m, 0.4 + 1.4 * abs(np.sin(heading)), 0.5 + 1.2 * abs(np.cos(heading)))
        layer, foot, unit = _figure_layer(canvas, x_m, z_m, 1.3, 1.4)
        (draw_motorbike if motor else draw_bicycle)(layer, figure_placement(foot, unit, heading), paint, unit)
        layer.shade(rng, 0.08)
        vehicle = canvas.paste(layer, z_m)
        bodies = []
        for own, sitting in ((behind, pose_behind), (look, pose)):
            if own is not None and sitting is not None:
                layer, foot, unit = _figure_layer(canvas, x_m, z_m, 1.3, 2.3)
                draw_person(layer, figure_placement(foot, unit, heading), own, sitting, stature_m, heading)
                layer.shade(rng, 0.12)
                bodies.append(canvas.paste(layer, z_m))
        seen = [body for body in bodies if body is not None]
        if vehicle is None or len(seen) < len(bodies):
            return []
        kind = "motorbike" if motor else "bicycle"
        children = [Mark(kind, [vehicle, *seen], [], _orient_deg(heading))]
        children += [Mark("co-rider", seen, [], _orient_deg(heading))] if len(seen) > 1 else []
        return [Mark("rider", [seen[-1]], [], _orient_deg(heading), children)]

    return draw


def parked(rng: np.random.Generator, x_m: float, z_m: float) -> DrawMarks:
    """Bicycles or motorbikes without riders: of no class, and a trap for who detects riders by wheels."""
    motor = rng.random() < 0.25
    identity, draw_vehicle = ("motorbike-group", draw_motorbike) if motor else ("bicycle-group", draw_bicycle)
    count = int(rng.integers(1, 5))
    paints, headings = [cloth(rng) for _ in range(count)], rng.uniform(0.9, 1.5, count)

    def draw(canvas: Canvas) -> list[Mark]:
        footprints = []
        for index in range(count):
            x = x_m + (index - count / 2) * 0.45
            shadow(canvas, x, z_m, 1.5, 0.3)
            layer, foot, unit = _figure_layer(canvas, x, z_m, 1.2, 1.4)
            draw_vehicle(layer, figure_placement(foot, unit, float(headings[index])), paints[index], unit)
            footprint = canvas.paste(layer, z_m)
            footprints += [footprint] if footprint else []
        return [Mark(identity, footprints)] if footprints else []

    return draw


def far_group(rng: np.random.Generator, x_m: float, z_m: float, riders: bool) -> DrawMarks:
    """People (or riders) too far and too close together to be told apart: one region to be ignored."""
    members = []
    for _ in range(int(rng.integers(3, 8))):
        x, z = x_m + float(rng.normal(0, 1.0)), z_m + float(rng.uniform(-1, 1))
        make = rider if riders else person
        members.append((z, make(rng, x, z, float(rng.uniform(1.5, 1.85)), float(rng.uniform(0, 2 * np.pi)))))
    members.sort(key=lambda member: -member[0])

    def draw(canvas: Canvas) -> list[Mark]:
        parts = [mark for _, draw_member in members for mark in draw_member(canvas)]
        footprints = [print_ for mark in parts for print_ in mark.footprints]
        footprints += [print_ for mark in parts for child in mark.children for print_ in child.footprints[:1]]
        identity = "rider+vehicle-group-far-away" if riders else "person-group-far-away"
        return [Mark(identity, footprints)] if footprints else []

    return draw


def poster(rng: np.random.Generator, x_m: float, z_m: float) -> DrawMarks:
    """An advertising board with a person or two on it: a pedestrian or a group, with the tag `depiction`."""
    shown = [sample_look(rng) for _ in range(int(rng.integers(1, 3)))]
    paper, heading = cloth(rng), float(rng.uniform(2.2, 4.0))
    poses = [walking(rng, look, 1.6) for look in shown]

    def draw(canvas: Canvas) -> list[Mark]:
        shadow(canvas, x_m, z_m, 1.5, 0.4)
        layer, (x, y), unit = _figure_layer(canvas, x_m, z_m, 0.9, 2.6)
        _panel(layer, (x, y), unit, (0.68, 0.3, 2.45), (60, 60, 60))
        _panel(layer, (x, y), unit, (0.6, 0.4, 2.37), paper)
        canvas.paste(layer, z_m)
        footprints = []
        for place, (look, pose) in enumerate(zip(shown, poses, strict=True)):
            layer, _, _ = _figure_layer(canvas, x_m, z_m, 0.9, 2.6)
            aside = 0.5 * (place - (len(shown) - 1) / 2)
            at = (x + aside * unit, y - 0.5 * unit)
            draw_person(layer, figure_placement(at, unit, heading), look, pose, 1.6, heading)
            footprint = canvas.paste(layer, z_m)
            footprints += [footprint] if footprint else []
        identity = "pedestrian" if len(shown) == 1 else "person-group-far-away"
        return [Mark(identity, footprints, ["depiction"])] if footprints else []

    return draw


def behind_glass(rng: np.random.Generator, x_m: float, z_m: float, stature_m: float) -> DrawMarks:
    """Somebody waiting behind the pane of a bus shelter."""
    heading = float(rng.uniform(0, 2 * np.pi))
    inner = person(rng, x_m, z_m + 0.4, stature_m, heading)
    streak = float(rng.uniform(-0.6, 0.6))

    def draw(canvas: Canvas) -> list[Mark]:
        marks = inner(canvas)
        pane, (x, y), unit = _figure_layer(canvas, x_m, z_m, 1.5, 2.7)
        _panel(pane, (x, y), unit, (1.3, 0.1, 2.3), (205, 200, 190))
        for offset in (streak, streak + 0.25):
            corners = ((offset, 0.1), (offset + 0.15, 0.1), (offset + 0.5, 2.3), (offset + 0.35, 2.3))
            pane.polygon(np.array([(x + u * unit, y - w * unit) for u, w in corners]), (245, 245, 245))
        canvas.paste(pane, z_m, opacity=0.38)
        frame, _, _ = _figure_layer(canvas, x_m, z_m, 1.6, 2.8)
        _panel(frame, (x, y), unit, (1.45, 2.3, 2.5), (70, 72, 70))
        for edge in (-1.33, 1.33):
            corners = ((edge - 0.05, 0), (edge + 0.05, 0), (edge + 0.05, 2.4), (edge - 0.05, 2.4))
            frame.polygon(np.array([(x + u * unit, y - w * unit) for u, w in corners]), (70, 72, 70))
        canvas.paste(frame, z_m)
        for mark in marks:
            mark.tags.append("behind-glass")
        return marks

    return draw


def _panel(
    layer: Layer, foot: tuple[float, float], unit: float, size_m: tuple[float, float, float], colour: Colour
) -> None:
    half, low, high = size_m
    corners = ((-half, low), (half, low), (half, high), (-half, high))
    layer.polygon(np.array([(foot[0] + u * unit, foot[1] - w * unit) for u, w in corners]), colour)
