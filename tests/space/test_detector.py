from __future__ import annotations

from itertools import pairwise

import pytest

from spnas_hw.space.detector import Detector


def test_a_cascade_gets_stricter_and_finer() -> None:
    cascade = Detector(("pedestrian",), type="cascade_rcnn").box_stages
    assert [stage.iou for stage in cascade] == [0.5, 0.6, 0.7]
    for before, after in pairwise(cascade):
        assert all(a < b for a, b in zip(after.delta_stds, before.delta_stds, strict=True))
        assert after.loss_weight == before.loss_weight / 2
    assert Detector(("pedestrian",)).box_stages == cascade[:1]


@pytest.mark.parametrize(("kind", "deltas"), [("faster_rcnn", 12), ("cascade_rcnn", 4)])
def test_a_box_for_each_class_or_for_all(kind, deltas: int) -> None:
    assert Detector(("a", "b", "c"), type=kind).box_deltas == deltas


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "retinanet", "proposals": 10}, "proposals has no meaning in a retinanet"),
        ({"type": "retinanet", "roi_channels": 64}, "roi_channels has no meaning in a retinanet"),
        ({"head_convs": 2}, "head_convs has no meaning in a faster_rcnn"),
        ({"type": "cascade_rcnn", "head_convs": 2}, "head_convs has no meaning in a cascade_rcnn"),
        ({"type": "retinanet", "head_convs": 0}, "head_convs is 0"),
    ],
)
def test_what_has_no_meaning_in_a_type_is_refused(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Detector(("pedestrian",), **changes)


def test_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'yolo'.*faster_rcnn, cascade_rcnn"):
        Detector(("pedestrian",), type="yolo")  # type: ignore[arg-type]
