"""People and two-wheelers of the synthetic streets: jointed figures in space, drawn as silhouettes.

A figure's own frame is (forward, left, up) with the ground at 0; a person has height 1 before scaling.
`heading` is 0 when the figure walks away from the camera and grows clockwise seen from above, in radians.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spnas_hw.detection.datasets.streets.canvas import Array, Colour, Layer

Place = Callable[[object], Array]  # points [n, 3] of a figure's own frame, metres -> pixels [n, 2]
_SIDES = (1, -1)
_SKIN: tuple[Colour, ...] = ((150, 180, 225), (120, 155, 205), (85, 120, 175), (55, 80, 125), (40, 55, 85))
_HAIR: tuple[Colour, ...] = ((25, 25, 28), (35, 50, 75), (70, 110, 150), (130, 130, 130), (95, 160, 200))


@dataclass(frozen=True)
class Look:
    """How one person is built and dressed."""

    build: float
    skin: Colour
    hair: Colour
    top: Colour
    stripes: Colour | None
    trousers: Colour
    shoes: Colour
    hem: float  # height where coat or skirt ends; 0.5 is the hip: no coat
    bag: Colour | None
    hat: Colour | None


@dataclass(frozen=True)
class Pose:
    """Joints [2 sides, 3] of the limbs and the spine's ends [3], in the figure's own frame."""

    hip: Array
    knee: Array
    foot: Array
    shoulder: Array
    elbow: Array
    hand: Array
    head: Array


def cloth(rng: np.random.Generator) -> Colour:
    """Mostly muted and dark, sometimes bright, as people dress."""
    value = rng.uniform(20, 90) if rng.random() < 0.5 else rng.uniform(90, 235)
    tint = rng.uniform(-1, 1, 3) * (70 if rng.random() < 0.35 else 18)
    b, g, r = np.clip(value + tint, 8, 250)
    return float(b), float(g), float(r)


def sample_look(rng: np.random.Generator, helmet_prob: float = 0.0) -> Look:
    top, trousers = cloth(rng), cloth(rng)
    if rng.random() < 0.4:
        trousers = (95.0, 65.0, 45.0) if rng.random() < 0.6 else (45.0, 42.0, 40.0)
    wears_hat = rng.random() < max(helmet_prob, 0.15)
    return Look(
        build=float(rng.uniform(0.85, 1.25)),
        skin=_SKIN[rng.integers(len(_SKIN))],
        hair=_HAIR[rng.integers(len(_HAIR))],
        top=top,
        stripes=cloth(rng) if rng.random() < 0.2 else None,
        trousers=trousers,
        shoes=cloth(rng),
        hem=float(rng.uniform(0.24, 0.44)) if rng.random() < 0.3 else 0.5,
        bag=cloth(rng) if rng.random() < 0.3 else None,
        hat=cloth(rng) if wears_hat else None,
    )


def figure_placement(foot_px: tuple[float, float], px_per_m: float, heading: float) -> Place:
    """Stand a figure at a picture point; it is seen from its own height (no foreshortening of the ground)."""
    sin, cos = np.sin(heading), np.cos(heading)

    def place(points: object) -> Array:
        own = np.asarray(points, np.float32).reshape(-1, 3)
        right = own[:, 0] * sin - own[:, 1] * cos
        return np.stack([foot_px[0] + right * px_per_m, foot_px[1] - own[:, 2] * px_per_m], 1).astype(
            np.float32
        )

    return place


def _reach(start: Array, length: float, angle: float, spread: float = 0.0) -> Array:
    """The next joint: `angle` forward from hanging straight down, `spread` metres to the left."""
    return start + np.array([length * np.sin(angle), spread, -length * np.cos(angle)], np.float32)


def walking(rng: np.random.Generator, look: Look, stature_m: float) -> Pose:
    """A moment of a walk; standing is a walk with a tiny step."""
    step = rng.uniform(0.25, 0.55) if rng.random() < 0.75 else rng.uniform(0.0, 0.1)
    swing = step * np.sin(rng.uniform(0, 2 * np.pi))
    lift, bent = rng.uniform(0.1, 0.6), rng.uniform(0.1, 0.7)
    hip, knee, foot, shoulder, elbow, hand = [], [], [], [], [], []
    for side in _SIDES:
        forward = side * swing
        hip.append(np.array([0, 0.048 * look.build * side, 0.5], np.float32))
        knee.append(_reach(hip[-1], 0.24, forward + 0.1 * step))
        foot.append(_reach(knee[-1], 0.23, forward - (lift * step * 2 if forward < 0 else 0.1)))
        shoulder.append(np.array([0, 0.105 * look.build * side, 0.8], np.float32))
        elbow.append(_reach(shoulder[-1], 0.17, -forward, 0.03 * side))
        hand.append(_reach(elbow[-1], 0.16, -forward + bent, -0.01 * side))
    joints = (np.stack(part) * stature_m for part in (hip, knee, foot, shoulder, elbow, hand))
    return Pose(*joints, head=np.array([0.015, 0, 0.915], np.float32) * stature_m)


def seated(
    rng: np.random.Generator,
    hip_m: Array,
    lean: float,
    hands_m: Array | None,
    feet_m: Array,
    stature_m: float,
) -> Pose:
    """Sitting at `hip_m` with the feet (and hands, else on the lap) where they are needed, in metres."""
    lateral = np.array([[0, 1, 0], [0, -1, 0]], np.float32)
    hip = hip_m + lateral * 0.09 * stature_m / 1.7
    spine = np.array([np.sin(lean), 0, np.cos(lean)], np.float32) * stature_m
    shoulder = hip_m + spine * 0.3 + lateral * 0.105 * stature_m
    hand = hands_m if hands_m is not None else hip + np.array([0.3, 0, 0.08], np.float32)
    sag = np.array([-0.03, 0, -0.09], np.float32)
    elbow = (shoulder + hand) / 2 + sag + lateral * rng.uniform(0, 0.08)
    knee = (hip + feet_m) / 2 + np.array([0.2, 0, 0.08], np.float32) * stature_m / 1.7
    return Pose(hip, knee, feet_m, shoulder, elbow, hand, head=hip_m + spine * 0.415)


def _ring(centre: Array, thick: float, wide: float) -> Array:
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    return centre + np.stack([thick * np.cos(turn), wide * np.sin(turn), 0 * turn], 1)


def _shaded(colour: Colour, gain: float) -> Colour:
    return colour[0] * gain, colour[1] * gain, colour[2] * gain


def draw_person(layer: Layer, place: Place, look: Look, pose: Pose, stature_m: float, heading: float) -> None:
    """The figure from the far limbs to the near ones. `place` maps metres; `pose` is in metres too."""
    px_per_m = float(abs(place([[0, 0, 1.0]])[0, 1] - place([[0, 0, 0]])[0, 1]))
    unit = px_per_m * stature_m
    left_is_far = np.sin(heading) > 0  # the left hand points away when walking to the right
    far, near = (0, 1) if left_is_far else (1, 0)

    def limb(joints: tuple[Array, ...], radii: tuple[float, ...], colour: Colour) -> None:
        points = [place(joint)[0] for joint in joints]
        for start, end, r0, r1 in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            layer.limb(start, end, r0 * unit * look.build, r1 * unit * look.build, colour)

    def leg(side: int, gain: float) -> None:
        limb(
            (pose.hip[side], pose.knee[side], pose.foot[side]),
            (0.06, 0.043, 0.03),
            _shaded(look.trousers, gain),
        )
        toe = pose.foot[side] + np.array([0.07 * stature_m, 0, -0.005], np.float32)
        limb((pose.foot[side], toe), (0.028, 0.018), _shaded(look.shoes, gain))

    def arm(side: int, gain: float) -> None:
        joints = (pose.shoulder[side], pose.elbow[side], pose.hand[side])
        limb(joints, (0.036, 0.031, 0.022), _shaded(look.top, gain))
        limb((pose.hand[side], pose.hand[side] + 0.01), (0.022, 0.02), _shaded(look.skin, gain))

    arm(far, 0.72)
    leg(far, 0.75)
    leg(near, 1.0)
    _draw_torso(layer, place, look, pose, stature_m)
    if look.bag is not None and np.cos(heading) > -0.6:
        centre = pose.shoulder.mean(0) + (pose.hip.mean(0) - pose.shoulder.mean(0)) * 0.45
        back = centre + np.array([-0.09 * stature_m, 0, 0], np.float32)
        lifts = [np.array([0, 0, dz * stature_m]) for dz in (-0.1, 0.1)]
        rings = [_ring(back + lift, 0.05 * stature_m, 0.08 * stature_m) for lift in lifts]
        layer.hull(place(np.concatenate(rings)), look.bag)
    arm(near, 0.92)
    _draw_head(layer, place, look, pose, unit, heading)


def _draw_torso(layer: Layer, place: Place, look: Look, pose: Pose, stature_m: float) -> None:
    shoulder, hip = pose.shoulder.mean(0), pose.hip.mean(0)
    wide = 0.118 * look.build * stature_m
    thick = 0.07 * look.build * stature_m

    def at(share: float, breadth: float) -> Array:
        return _ring(shoulder + (hip - shoulder) * share, thick * breadth, wide * breadth)

    if look.hem < 0.45:
        below = hip - np.array([0, 0, (0.5 - look.hem) * stature_m], np.float32)
        layer.hull(place(np.concatenate([at(0.8, 0.85), _ring(below, thick * 1.5, wide * 1.05)])), look.top)
    layer.hull(place(np.concatenate([at(-0.05, 0.75), at(0.05, 1.0), at(0.6, 0.8), at(1.1, 0.82)])), look.top)
    if look.stripes is not None:
        for share in (0.15, 0.45, 0.75):
            layer.hull(place(np.concatenate([at(share, 0.88), at(share + 0.14, 0.84)])), look.stripes)


def _draw_head(layer: Layer, place: Place, look: Look, pose: Pose, unit: float, heading: float) -> None:
    head, neck = place(pose.head)[0], place(pose.shoulder.mean(0))[0]
    side, facing = float(np.sin(heading)), float(-np.cos(heading))
    layer.limb(neck, (head + neck) / 2, 0.032 * unit, 0.03 * unit, _shaded(look.skin, 0.85))
    layer.ellipse(head, (0.056 * unit, 0.078 * unit), look.hair)
    if facing > -0.5:
        shift = np.array([side * 0.018, 0.014], np.float32) * unit
        layer.ellipse(head + shift, (0.045 * unit * min(1.0, 0.75 + facing * 0.3), 0.062 * unit), look.skin)
    if look.hat is not None:
        crown = head - np.array([0, 0.035 * unit], np.float32)
        layer.ellipse(crown, (0.066 * unit, 0.045 * unit), look.hat)


def draw_bicycle(layer: Layer, place: Place, colour: Colour, px_per_m: float) -> None:
    """A bicycle of 1.75 m, its middle above the origin."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for middle in (-0.53, 0.53):
        tyre = np.stack([middle + 0.34 * np.cos(turn), 0 * turn, 0.35 + 0.34 * np.sin(turn)], 1)
        layer.line(place(tyre), 0.05 * px_per_m, (30, 30, 30), closed=True)
    crank, saddle, bars, rear, front = (-0.05, 0.32), (-0.2, 0.92), (0.4, 1.02), (-0.53, 0.35), (0.53, 0.35)
    for start, end in (
        (rear, crank),
        (crank, saddle),
        (saddle, rear),
        (crank, (0.4, 0.8)),
        (saddle, (0.38, 0.85)),
    ):
        layer.line(place([[start[0], 0, start[1]], [end[0], 0, end[1]]]), 0.05 * px_per_m, colour)
    layer.line(place([[front[0], 0, front[1]], [bars[0], 0, bars[1]]]), 0.05 * px_per_m, colour)
    layer.line(place([[bars[0], -0.28, bars[1]], [bars[0], 0.28, bars[1]]]), 0.05 * px_per_m, (40, 40, 40))
    layer.line(
        place([[saddle[0] - 0.1, 0, saddle[1]], [saddle[0] + 0.1, 0, saddle[1]]]),
        0.09 * px_per_m,
        (25, 25, 25),
    )


def draw_motorbike(layer: Layer, place: Place, colour: Colour, px_per_m: float) -> None:
    """A motorbike of 2.1 m, its middle above the origin."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for middle in (-0.7, 0.7):
        for radius, colour_of_part in ((0.31, (28, 28, 28)), (0.14, (125, 125, 125))):
            rims = [
                (middle + radius * np.cos(turn), 0 * turn + v, 0.32 + radius * np.sin(turn))
                for v in (-0.07, 0.07)
            ]
            layer.hull(place(np.concatenate([np.stack(rim, 1) for rim in rims])), colour_of_part)
    body = [(-0.85, 0.78), (-0.3, 0.45), (0.35, 0.45), (0.6, 0.9), (0.2, 0.98), (-0.15, 0.8)]
    sides = [[u, v, w] for u, w in body for v in (-0.13, 0.13)]
    layer.hull(place(sides), colour)
    layer.line(place([[0.7, 0, 0.32], [0.45, 0, 1.0]]), 0.1 * px_per_m, (90, 90, 90))
    layer.line(place([[0.45, -0.35, 1.02], [0.45, 0.35, 1.02]]), 0.06 * px_per_m, (40, 40, 40))
