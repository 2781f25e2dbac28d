"""The streets hold every case that the protocol of EuroCity Persons distinguishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from spnas_hw.config import Dataset
from spnas_hw.detection.datasets import prepare
from spnas_hw.detection.datasets.ecp import CLASSES, GROUPS, TIMES, Object, find_frames, read_frame
from spnas_hw.detection.metrics.lamr import EXEMPT, SIZE, SUBSETS, Subset

HEIGHT, WIDTH = 640, 900
IMAGES = 160


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, tuple[Object, ...], tuple[str, ...]]]:
    """Time of day, objects and tags of every image."""
    root = tmp_path_factory.mktemp("streets") / "data"
    prepare(Dataset("streets", root, 8, IMAGES, 1, 0), (HEIGHT, WIDTH))
    found = []
    for paths in find_frames(root, "train"):
        frame = read_frame(paths.label)
        found.append((paths.image.parents[3].name, frame.objects, frame.tags))
    return found


def objects(frames) -> Iterator[Object]:
    return (thing for _, things, _ in frames for thing in things)


def why_ignored(thing: Object, name: str, subset: Subset) -> set[str]:
    """Every rule that makes a person of the class not one who must be found."""
    box = thing.union() if name == "rider" else thing.box
    height_px = (box[3] - box[1]) * SIZE[0] / HEIGHT
    rules = {
        "too small": height_px < subset.min_height_px,
        "too tall": height_px > subset.max_height_px,
        "too occluded": thing.occlusion >= subset.hidden_below,
        "not occluded": thing.occlusion < subset.min_occlusion,
        "truncated": thing.truncation >= subset.hidden_below,
        "exempt": name == "pedestrian" and not EXEMPT.isdisjoint(thing.tags),
    }
    return {rule for rule, holds in rules.items() if holds}


RULES = {
    "reasonable": {"found", "too small", "too occluded", "truncated"},
    "small": {"found", "too small", "too tall", "too occluded", "truncated"},
    "occluded": {"found", "too small", "too occluded", "not occluded", "truncated"},
    "all": {"found", "too small", "too occluded", "truncated"},
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("subset", SUBSETS)
def test_every_reason_to_find_or_to_ignore_somebody(frames, name: str, subset: str) -> None:
    own = [why_ignored(thing, name, SUBSETS[subset]) for thing in objects(frames) if thing.identity == name]
    seen = set().union(*own) | ({"found"} if set() in own else set())
    assert seen == RULES[subset] | ({"exempt"} if name == "pedestrian" else set())


def test_every_identity_and_tag_that_the_rules_name(frames) -> None:
    identities = Counter(thing.identity for thing in objects(frames))
    children = Counter(child.identity for thing in objects(frames) for child in thing.children)
    assert set(identities) >= {*CLASSES, *GROUPS.values(), "bicycle-group", "motorbike-group"}
    assert set(children) >= {"bicycle", "motorbike", "co-rider"}
    tags = {tag for thing in objects(frames) for tag in thing.tags}
    shares = {f"{kind}>{band}" for kind in ("occluded", "truncated") for band in (10, 40, 80)}
    assert tags >= shares | {"sitting-lying", "behind-glass", "depiction", "skating"}


def test_posters_of_one_and_of_a_group_are_told_apart(frames) -> None:
    """One is a pedestrian who must be found, the other is background, no region to be ignored."""
    posters = {thing.identity for thing in objects(frames) if "depiction" in thing.tags}
    assert posters == {"pedestrian", GROUPS["pedestrian"]}
    groups = [thing for thing in objects(frames) if thing.identity == GROUPS["pedestrian"]]
    assert {("depiction" in thing.tags) for thing in groups} == {True, False}


def test_riders_are_larger_with_their_vehicle(frames) -> None:
    riders = [thing for thing in objects(frames) if thing.identity == "rider"]
    assert any(thing.union() != thing.box for thing in riders)
    assert any(len(thing.children) > 1 for thing in riders)


def test_persons_reach_the_border_and_overlap(frames) -> None:
    """Boxes are clipped there, and detections have to be shared out."""
    boxes = [thing.box for thing in objects(frames)]
    assert any(box[0] == 0 for box in boxes) and any(box[2] == WIDTH for box in boxes)
    pairs = [
        (a.box, b.box)
        for _, things, _ in frames
        for a in things
        for b in things
        if a is not b and a.identity in CLASSES and b.identity in CLASSES
    ]
    assert any(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3] for a, b in pairs)


def test_both_classes_share_images_and_some_images_are_empty(frames) -> None:
    present = [{thing.identity for thing in things} & set(CLASSES) for _, things, _ in frames]
    assert set(CLASSES) in present and set() in present


def test_day_night_and_the_weather(frames) -> None:
    assert {time for time, _, _ in frames} == set(TIMES)
    assert any(tags for _, _, tags in frames)


def test_labels_lie_within_the_image(frames) -> None:
    for thing in objects(frames):
        assert 0 <= thing.box[0] < thing.box[2] <= WIDTH and 0 <= thing.box[1] < thing.box[3] <= HEIGHT
