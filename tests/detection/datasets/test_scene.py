from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.detection.datasets.streets.canvas import Camera, Canvas, Footprint
from spnas_hw.detection.datasets.streets.people import Mark
from spnas_hw.detection.datasets.streets.scene import _entry, visibility_tags

Rectangle = tuple[float, float, float, float]


@pytest.fixture
def canvas() -> Canvas:
    return Canvas(Camera(height=100, width=200, horizon_y=40.0, vanish_x=100.0, focal=1.0))


def paste(canvas: Canvas, box: Rectangle, opacity: float = 1.0) -> Footprint:
    """A filled rectangle with its edges between pixels, nearer than all before it."""
    x0, y0, x1, y1 = box
    layer = canvas.layer((x0 - 3, y0 - 3, x1 + 3, y1 + 3), whole=True)
    layer.polygon(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), (90.0, 120.0, 150.0))
    footprint = canvas.paste(layer, 10.0, opacity)
    assert footprint is not None
    return footprint


def label(canvas: Canvas, mark: Mark) -> dict[str, object]:
    entry = _entry(canvas, mark)
    assert entry is not None
    return entry


def band(share: float) -> int:
    return max((limit for limit in (0, 10, 40, 80) if share > limit / 100), default=0)


@pytest.mark.parametrize("hidden", range(20))
def test_occlusion_is_the_hidden_share_of_the_mask(canvas: Canvas, hidden: int) -> None:
    """A person of 20 columns with `hidden` of them behind something nearer."""
    person = Mark("pedestrian", [paste(canvas, (50, 20, 70, 80))])
    if hidden:
        paste(canvas, (30, 10, 50 + hidden, 90))
    expected = [f"occluded>{band(hidden / 20)}"] if band(hidden / 20) else []
    assert person.footprints[0].full_px == 20 * 60
    assert canvas.visible_px(person.footprints[0]) == (20 - hidden) * 60
    assert label(canvas, person)["tags"] == expected


@pytest.mark.parametrize("outside", range(0, 20, 2))
def test_truncation_is_the_share_beyond_the_border(canvas: Canvas, outside: int) -> None:
    person = Mark("pedestrian", [paste(canvas, (-outside, 20, 20 - outside, 80))])
    entry = label(canvas, person)
    assert entry["tags"] == ([f"truncated>{band(outside / 20)}"] if band(outside / 20) else [])
    assert (entry["x0"], entry["x1"]) == (0.0, pytest.approx(20 - outside, abs=0.3))


def test_occlusion_counts_the_part_inside_only(canvas: Canvas) -> None:
    person = Mark("pedestrian", [paste(canvas, (190, 20, 210, 80))])
    paste(canvas, (185, 50, 205, 90))
    assert label(canvas, person)["tags"] == ["occluded>40", "truncated>40"]


def test_the_box_is_the_full_extent(canvas: Canvas) -> None:
    person = Mark("pedestrian", [paste(canvas, (50, 20, 70, 80))], orient_deg=12.5)
    paste(canvas, (30, 10, 65, 90))
    entry = label(canvas, person)
    assert [entry[key] for key in ("x0", "y0", "x1", "y1")] == pytest.approx([50, 20, 70, 80], abs=0.3)
    assert entry["orient"] == 12.5


def test_what_nobody_can_see_has_no_label(canvas: Canvas) -> None:
    hidden = Mark("pedestrian", [paste(canvas, (45, 20, 70, 80))])
    outside = Mark("pedestrian", [paste(canvas, (300, 20, 320, 80))])
    paste(canvas, (40, 10, 69, 90))  # leaves one column of 25
    assert _entry(canvas, hidden) is None
    assert _entry(canvas, outside) is None


def test_a_pane_of_glass_hides_nothing(canvas: Canvas) -> None:
    person = Mark("pedestrian", [paste(canvas, (50, 20, 70, 80))], ["behind-glass"])
    paste(canvas, (40, 10, 80, 90), opacity=0.38)
    assert label(canvas, person)["tags"] == ["behind-glass"]


def test_a_rider_does_not_hide_his_own_vehicle(canvas: Canvas) -> None:
    vehicle, body = paste(canvas, (50, 50, 90, 80)), paste(canvas, (60, 20, 80, 80))
    rider = Mark("rider", [body], children=[Mark("bicycle", [vehicle, body])])
    entry = label(canvas, rider)
    assert entry["tags"] == []
    (bicycle,) = entry["children"]  # type: ignore[misc]
    assert bicycle["identity"] == "bicycle" and bicycle["tags"] == []
    assert bicycle["y0"] == pytest.approx(50, abs=0.3)  # the vehicle's box is its own, without the body

    paste(canvas, (75, 10, 95, 90))
    entry = label(canvas, rider)
    assert entry["tags"] == ["occluded>10"] and entry["children"][0]["tags"] == ["occluded>10"]


def test_a_group_is_one_box_without_visibility_tags(canvas: Canvas) -> None:
    members = [paste(canvas, (50, 20, 70, 80)), paste(canvas, (65, 25, 90, 75))]
    group = Mark("person-group-far-away", members, ["depiction"])
    entry = label(canvas, group)
    assert entry["tags"] == ["depiction"]
    assert [entry[key] for key in ("x0", "y0", "x1", "y1")] == pytest.approx([50, 20, 90, 80], abs=0.3)


@given(st.integers(1, 5000), st.data())
def test_tags_in_whole_numbers(full: int, data: st.DataObject) -> None:
    """A share of exactly 10, 40 or 80 % is not more than that; rounding must not make it so."""
    inside = data.draw(st.integers(1, full))
    visible = data.draw(st.integers(0, inside))

    def exact(name: str, lost: int, whole: int) -> list[str]:
        bands = [limit for limit in (10, 40, 80) if 100 * lost > limit * whole]
        return [f"{name}>{bands[-1]}"] if bands else []

    expected = exact("occluded", inside - visible, inside) + exact("truncated", full - inside, full)
    assert visibility_tags(full, inside, visible) == expected
