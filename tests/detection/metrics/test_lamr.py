from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spnas_hw.detection.datasets.ecp import CLASSES, Object
from spnas_hw.detection.datasets.ecp_detections import Detections
from spnas_hw.detection.metrics.lamr import REFERENCES, SUBSETS, Image, Lamr, evaluate, log_average_miss_rate
from tests.detection.metrics.naive_lamr import Detection, naive_lamr

Scene = tuple[list[Object], list[Detection]]
SIZE = (40, 100)
EMPTY: Scene = ([], [])


def box(x: float, y: float = 100, width: float = SIZE[0], height: float = SIZE[1]) -> tuple[float, ...]:
    return (x, y, x + width, y + height)


def thing(where: tuple[float, ...], identity: str = "pedestrian", **facts: Any) -> Object:
    facts = {"occlusion": 0, "truncation": 0, "tags": (), "children": (), **facts}
    return Object(identity, where, **facts)


def found(where: tuple[float, ...], score: float, identity: str = "pedestrian") -> Detection:
    return (identity, where, score)


def image_of(scene: Scene) -> Image:
    objects, detections = scene
    return objects, Detections(
        labels=np.array([CLASSES.index(identity) for identity, _, _ in detections], dtype=np.int64),
        boxes=np.array([where for _, where, _ in detections], dtype=np.float64).reshape(-1, 4),
        scores=np.array([score for _, _, score in detections], dtype=np.float64),
    )


def evaluated(scenes: list[Scene]) -> dict[tuple[str, str, bool], Lamr]:
    results = evaluate([image_of(scene) for scene in scenes])
    return {(one.class_name, one.subset, one.ignore_other_vru): one for one in results}


def reasonable(scenes: list[Scene], ignore_other_vru: bool = False) -> float | None:
    return evaluated(scenes)["pedestrian", "reasonable", ignore_other_vru].lamr


A, B, NOTHING, OTHER = box(100), box(300), box(500), box(700)
PAIR = [thing(A), thing(B)]
FALSE_THEN_TRUE = [found(NOTHING, 0.9), found(A, 0.8)]
FOUR = [thing(A), thing(B), thing(box(900)), thing(box(1100))]
DROP = 0.5 ** (1 / 9)  # two persons, one found, nothing below the first reference: 0.9258747123


@pytest.mark.parametrize(
    ("scenes", "expected"),
    [
        ([([thing(A)], [found(A, 0.9)])], 1e-10),
        ([([thing(A)], [])], 1.0),
        ([([thing(A)], FALSE_THEN_TRUE)], 0.0774263683),
        ([(PAIR, [found(A, 0.9)])], 0.5),
        ([(PAIR, FALSE_THEN_TRUE)] + [EMPTY] * 99, 0.5),
        ([(PAIR, FALSE_THEN_TRUE)] + [EMPTY] * 36, 0.5832645198),
        ([(PAIR, FALSE_THEN_TRUE)] + [EMPTY] * 9, 0.6803950001),
        ([(FOUR, [found(A, 0.9), found(NOTHING, 0.8), found(B, 0.7)])] + [EMPTY] * 9, 0.5987324356),
        ([(PAIR, [found(box(100, width=20), 0.9)])], 0.5),
        ([(PAIR, [found(A, 0.8), found(box(500, height=32), 0.9)])], 0.5),
        ([(PAIR, [found(A, 0.8), found(box(500, height=32.5), 0.9)])], 0.9258747123),
    ],
    ids=[
        *("all found", "none found", "false then true", "half found", "100 images", "37 images", "10 images"),
        *("four in 10 images", "IoU exactly 0.5", "detection of 32 px dropped", "of 32.5 px counted"),
    ],
)
def test_hand_cases(scenes: list[Scene], expected: float) -> None:
    """Checked against the data set's own evaluator."""
    for ignore_other_vru in (False, True):
        assert reasonable(scenes, ignore_other_vru) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("ignored", "where", "expected"),
    [
        (thing(OTHER, "rider"), OTHER, (0.9258747123, 0.5)),
        (thing(box(650, 50, 400, 300), "person-group-far-away"), OTHER, (0.5, 0.5)),
        (
            thing(box(650, 50, 400, 300), "person-group-far-away", tags=("depiction",)),
            OTHER,
            (0.9258747123, 0.9258747123),
        ),
        (thing(box(690, 50, 100, 200), occlusion=40), OTHER, (0.9258747123, 0.9258747123)),
        (thing(OTHER, occlusion=40), OTHER, (0.5, 0.5)),
        (thing(OTHER, tags=("sitting-lying",)), OTHER, (0.5, 0.5)),
        (thing(OTHER, tags=("behind-glass",)), OTHER, (0.5, 0.5)),
        (thing(box(700, height=39)), box(700, height=39), (0.5, 0.5)),
        (thing(OTHER, "co-rider"), OTHER, (0.9258747123, 0.9258747123)),
        (thing(OTHER, "bicycle-group"), OTHER, (0.9258747123, 0.9258747123)),
        (thing(OTHER, "rider+vehicle-group-far-away"), OTHER, (0.9258747123, 0.9258747123)),
    ],
    ids=[
        *("rider", "inside a group", "inside a poster of a group", "small within occluded", "occluded"),
        *("sitting", "behind glass", "low", "unknown", "bicycles", "group of riders"),
    ],
)
def test_what_a_detection_may_be_on(
    ignored: Object, where: tuple[float, ...], expected: tuple[float, float]
) -> None:
    """One of two persons is found; a better detection is on something else. Without and with the flag."""
    scene = ([*PAIR, ignored], [found(A, 0.8), found(where, 0.9)])
    for ignore_other_vru, value in zip((False, True), expected, strict=True):
        assert reasonable([scene], ignore_other_vru) == pytest.approx(value, rel=1e-9)


def test_the_counts_behind_a_number() -> None:
    low, rider = thing(box(900, height=30)), thing(OTHER, "rider")
    detections = [found(A, 0.9), found(A, 0.8), found(OTHER, 0.7), found(box(900, height=30), 0.6)]
    results = evaluated([([*PAIR, low, rider], detections)])
    one = results["pedestrian", "reasonable", False]
    # The second detection of a person is a fault; the low one is too low to be looked at.
    assert (one.ground_truth, one.true_positives, one.false_positives, one.detections) == (2, 1, 2, 3)
    one = results["pedestrian", "reasonable", True]
    assert (one.ground_truth, one.true_positives, one.false_positives, one.detections) == (2, 1, 1, 2)
    one = results["pedestrian", "small", False]
    assert (one.ground_truth, one.true_positives, one.false_positives, one.detections) == (1, 1, 0, 1)


def test_without_ground_truth_there_is_no_number() -> None:
    for scenes in ([EMPTY], [([], [found(A, 0.5)])], [([thing(A, occlusion=80)], [])]):
        assert reasonable(scenes) is None
    one = evaluated([([], [found(A, 0.5)])])["pedestrian", "reasonable", False]
    assert (one.ground_truth, one.false_positives) == (0, 1)


def test_riders_are_evaluated_with_their_vehicle() -> None:
    rider = thing(OTHER, "rider", children=(thing((680, 180, 760, 260), "bicycle"),))
    both = (680, 100, 760, 260)
    for where, expected in ((both, 1e-10), (OTHER, 1.0)):
        results = evaluated([([rider], [found(where, 0.9, "rider")])])
        assert results["rider", "reasonable", False].lamr == pytest.approx(expected)
    # Where pedestrians are evaluated, the ignored rider is the person alone.
    for where, expected in ((both, DROP), (OTHER, 0.5)):
        scene = ([*PAIR, rider], [found(A, 0.8), found(where, 0.9)])
        assert reasonable([scene], ignore_other_vru=True) == pytest.approx(expected)


def test_of_equal_overlaps_the_later_person_is_taken() -> None:
    """The detection between the two may take either; the other detection fits the left one only."""
    left, right = thing(box(100, width=30)), thing(box(120, width=30))
    detections = [found(box(110, width=30), 0.9), found(box(95, width=30), 0.5)]
    for persons, expected in (([left, right], 2), ([right, left], 1)):
        results = evaluated([(persons, detections)])
        assert results["pedestrian", "reasonable", False].true_positives == expected


def test_the_largest_overlap_is_taken() -> None:
    """The first detection is on the first person; were it given the second, the other would find nobody."""
    first, second = thing(box(100)), thing(box(110))
    detections = [found(box(101), 0.9), found(box(120), 0.5)]
    for persons in ([first, second], [second, first]):
        results = evaluated([(persons, detections)])
        assert results["pedestrian", "reasonable", False].true_positives == 2


def test_boxes_end_at_the_image() -> None:
    """Clipped, the detection is the person; beyond the image it would be less than half of it."""
    person = thing((1880, 900, 1920, 1024))
    assert reasonable([([person], [found((1880, 900, 2100, 1200), 0.9)])]) == pytest.approx(1e-10)
    for outside in ((2000, 100, 2040, 200), (-90, 100, -50, 200)):
        scenes = [(PAIR, [found(A, 0.8), found(outside, 0.9)])]
        assert reasonable(scenes) == pytest.approx(DROP)
    scenes = [(PAIR, [found(A, 0.8), found((100, 1100, 140, 1200), 0.9)])]
    assert reasonable(scenes) == pytest.approx(0.5)  # nothing of its height is left


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    ("subset", "height", "occlusion", "truncation", "is_wanted"),
    [
        ("reasonable", 40, 10, 10, True),
        ("reasonable", 39.5, 0, 0, False),
        ("reasonable", 1000, 0, 0, True),
        ("reasonable", 40, 40, 0, False),
        ("reasonable", 40, 0, 40, False),
        ("small", 30, 10, 10, True),
        ("small", 60, 0, 0, True),
        ("small", 29.5, 0, 0, False),
        ("small", 60.5, 0, 0, False),
        ("small", 40, 40, 0, False),
        ("small", 40, 0, 40, False),
        ("occluded", 40, 40, 0, True),
        ("occluded", 40, 40, 40, True),
        ("occluded", 40, 10, 40, False),
        ("occluded", 40, 80, 0, False),
        ("occluded", 40, 40, 80, False),
        ("occluded", 39.5, 40, 0, False),
        ("all", 20, 40, 40, True),
        ("all", 19.5, 0, 0, False),
        ("all", 20, 80, 0, False),
        ("all", 20, 0, 80, False),
    ],
)
def test_whom_a_subset_holds(
    name: str, subset: str, height: float, occlusion: int, truncation: int, is_wanted: bool
) -> None:
    person = thing(box(100, height=height), name, occlusion=occlusion, truncation=truncation)
    assert evaluated([([person], [])])[name, subset, False].ground_truth == is_wanted


@pytest.mark.parametrize(
    ("subset", "height", "is_counted"),
    [
        *(("reasonable", 32, False), ("reasonable", 32.5, True), ("reasonable", 900, True)),
        *(("small", 24, False), ("small", 24.5, True), ("small", 74.5, True), ("small", 75, False)),
        *(("occluded", 32, False), ("occluded", 32.5, True), ("all", 16, False), ("all", 16.5, True)),
    ],
)
def test_how_high_detections_are_that_count(subset: str, height: float, is_counted: bool) -> None:
    scenes = [([], [found(box(100, height=height), 0.5)])]
    assert evaluated(scenes)["pedestrian", subset, False].detections == is_counted


def test_the_references_are_exact() -> None:
    assert REFERENCES[::4] == (0.01, 0.1, 1.0)
    assert pytest.approx([10 ** (-2 + quarter / 4) for quarter in range(9)], rel=1e-15) == REFERENCES
    for images in range(10, 1000, 10):  # FPPI of exactly 0.1, at which one more person is found
        hits = np.array([False] * (images // 10) + [True])
        assert log_average_miss_rate(hits, 2, images) == pytest.approx(0.5 ** (5 / 9))


edges = st.sampled_from([-20, 0, 10, 20, 30, 960, 1000, 1880, 1900])
boxes = st.builds(
    box,
    edges,
    st.sampled_from([-10, 0, 10, 20, 980]),
    st.sampled_from([10, 20, 40]),
    st.sampled_from([16, 20, 24, 30, 32, 40, 48, 60, 64, 75, 80, 100]),
)
shares = st.sampled_from([0, 0, 0, 10, 40, 80])
objects = st.builds(
    Object,
    identity=st.sampled_from([*CLASSES, "pedestrian", "rider", "person-group-far-away"])
    | st.sampled_from(["rider+vehicle-group-far-away", "bicycle-group", "co-rider"]),
    box=boxes,
    occlusion=shares,
    truncation=shares,
    tags=st.sampled_from([(), (), (), ("depiction",), ("sitting-lying",), ("behind-glass", "rain")]),
    children=st.lists(st.builds(lambda where: thing(where, "bicycle"), boxes), max_size=2).map(tuple),
)
scores = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
crowd_boxes = st.builds(
    box,
    st.sampled_from([0, 4, 8, 12, 16, 20]),
    st.just(0),
    st.sampled_from([30, 40]),
    st.sampled_from([60, 64]),
)
crowd = st.builds(thing, crowd_boxes, st.sampled_from(["pedestrian", "pedestrian", "pedestrian", "rider"]))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Few places and scores, so that boxes coincide, overlap by exactly a half, and scores are equal.

    Half of them are crowds, where a detection has several persons to choose from.
    """
    if draw(st.booleans()):
        labelled = draw(st.lists(crowd, min_size=2, max_size=6))
        detected = st.tuples(st.just("pedestrian"), crowd_boxes, scores)
        return labelled, draw(st.lists(detected, min_size=2, max_size=8))
    labelled = draw(st.lists(objects, max_size=6))
    near = st.sampled_from([one.box for one in labelled] or [A]) | boxes
    return labelled, draw(st.lists(st.tuples(st.sampled_from(CLASSES), near, scores), max_size=8))


data_sets = st.lists(scenes(), min_size=1, max_size=5)


@settings(max_examples=400)
@given(data_sets)
def test_a_naive_implementation_agrees(data_set: list[Scene]) -> None:
    results = evaluated(data_set)
    assert len(results) == 2 * len(SUBSETS) * 2
    for (name, subset, ignore_other_vru), one in results.items():
        expected = naive_lamr(data_set, name, subset, ignore_other_vru)
        assert one.lamr == (None if expected["lamr"] is None else pytest.approx(expected["lamr"], rel=1e-12))
        for count in ("ground_truth", "true_positives", "false_positives"):
            assert getattr(one, count) == expected[count]


@given(data_sets)
def test_to_ignore_more_never_raises_the_miss_rate(data_set: list[Scene]) -> None:
    results = evaluated(data_set)
    for (name, subset, ignore_other_vru), one in results.items():
        if one.lamr is not None and not ignore_other_vru:
            assert results[name, subset, True].lamr <= one.lamr
            assert results[name, subset, True].true_positives == one.true_positives


@given(data_sets, st.randoms(use_true_random=False))
def test_the_order_of_images_does_not_matter_where_scores_differ(data_set: list[Scene], random: Any) -> None:
    ranks = iter(range(10_000))
    distinct = [
        (labelled, [(name, where, score + 1e-6 * next(ranks)) for name, where, score in detections])
        for labelled, detections in data_set
    ]
    expected = evaluated(distinct)
    random.shuffle(distinct)
    assert evaluated(distinct) == expected


@given(data_sets)
def test_only_the_order_of_scores_matters(data_set: list[Scene]) -> None:
    stretched = [
        (labelled, [(name, where, 7 * score**3 - 2) for name, where, score in detections])
        for labelled, detections in data_set
    ]
    assert evaluated(stretched) == evaluated(data_set)


@given(data_sets, st.integers(1, 4))
def test_what_comes_last_and_is_wrong_changes_no_number(data_set: list[Scene], count: int) -> None:
    """The end of the curve counts on: only a reference that is reached again would matter."""
    far = found(box(500, 500, 40, 60), -1.0)
    more = [(labelled, [*detections, *[far] * count]) for labelled, detections in data_set]
    expected = evaluated(data_set)
    for key, one in evaluated(more).items():
        added = count * len(data_set) * (key[0] == "pedestrian")
        assert one.lamr == expected[key].lamr
        assert one.false_positives == expected[key].false_positives + added


@given(data_sets)
def test_what_is_too_low_is_not_looked_at(data_set: list[Scene]) -> None:
    low = [found(box(0, 0, 40, 16), 2.0, name) for name in CLASSES]
    more = [(labelled, [*low, *detections]) for labelled, detections in data_set]
    assert evaluated(more) == evaluated(data_set)


def test_many_images_are_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = (
        [*PAIR, thing(OTHER, "rider")],
        [found(A, 0.8), found(NOTHING, 0.9), found(A, 0.7), found(OTHER, 0.6)],
    )
    expected = evaluated([scene, EMPTY] * 5)
    for block in (1, 3, 7):
        monkeypatch.setattr("spnas_hw.detection.metrics.matching.BLOCK", block)
        assert evaluated([scene, EMPTY] * 5) == expected


def test_no_framework_is_woken() -> None:
    program = "import sys, spnas_hw.detection.metrics.lamr; "
    program += (
        "assert not {'torch', 'mmdet', 'mmengine', 'mmcv', 'cv2', 'pandas'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
