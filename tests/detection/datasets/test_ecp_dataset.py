from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mmdet.registry import DATASETS

import spnas_hw.detection.framework  # noqa: F401  registers the data set
from spnas_hw.detection.datasets.ecp import CLASSES
from spnas_hw.detection.datasets.ecp_dataset import EuroCityPersons
from spnas_hw.errors import DataError

PEDESTRIAN, RIDER = (CLASSES.index(name) for name in ("pedestrian", "rider"))


def thing(identity: object, box: tuple[float, ...], *tags: str, **more: object) -> dict[str, object]:
    return {
        "identity": identity,
        **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        "tags": tags,
        **more,
    }


def person(height: float = 50, *tags: str, identity: str = "pedestrian") -> dict[str, object]:
    return thing(identity, (10, 10, 30, 10 + height), *tags)


def write(root: Path, *children: dict[str, object], time: str = "day", frame: int = 0) -> None:
    for kind, ending in (("img", "png"), ("labels", "json")):
        path = root / "ECP" / time / kind / "train" / "rome" / f"rome_{frame:05d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        label = {"identity": "frame", "imagewidth": 1920, "imageheight": 1024, "children": children}
        path.write_text("" if kind == "img" else json.dumps(label))


def instances(root: Path, *children: dict[str, object], **options: Any) -> list[dict[str, Any]]:
    """What the data set makes of one image with these objects."""
    write(root, *children)
    arguments = {"split": "train", "min_height_px": 20, "lazy_init": True, **options}
    (entry,) = EuroCityPersons(data_root=str(root), **arguments).load_data_list()
    return entry["instances"]


@pytest.mark.parametrize(("identity", "index"), [("pedestrian", PEDESTRIAN), ("rider", RIDER)])
def test_a_person_is_trained_on(tmp_path: Path, identity: str, index: int) -> None:
    found = instances(tmp_path, person(identity=identity))
    assert found == [{"bbox": [10, 10, 30, 60], "bbox_label": index, "ignore_flag": 0}]


@pytest.mark.parametrize("identity", CLASSES)
@pytest.mark.parametrize(
    ("tags", "ignored"),
    [
        (["occluded>10"], 0),
        (["occluded>40", "truncated>40"], 0),
        (["occluded>80"], 1),
        (["truncated>80"], 1),
        (["truncated >80"], 1),
        (["depiction"], 1),
        (["sitting-lying"], 0),
        (["behind-glass"], 0),
        (["unsure-orientation", "unheard-of"], 0),
    ],
    ids=str,
)
def test_tags_that_make_a_person_ignored(
    tmp_path: Path, identity: str, tags: list[str], ignored: int
) -> None:
    (found,) = instances(tmp_path, person(50, *tags, identity=identity))
    assert found["ignore_flag"] == ignored


@pytest.mark.parametrize(("height", "ignored"), [(19.9, 1), (20, 0), (20.1, 0)])
def test_persons_below_the_smallest_height_are_ignored(tmp_path: Path, height: float, ignored: int) -> None:
    (found,) = instances(tmp_path, person(height))
    assert found["ignore_flag"] == ignored
    (found,) = instances(tmp_path, person(height), min_height_px=height + 1)
    assert found["ignore_flag"] == 1


@pytest.mark.parametrize(
    ("identity", "index"), [("person-group-far-away", PEDESTRIAN), ("rider+vehicle-group-far-away", RIDER)]
)
def test_groups_are_ignore_regions_of_their_class(tmp_path: Path, identity: str, index: int) -> None:
    found = instances(tmp_path, person(50, identity=identity))
    assert found == [{"bbox": [10, 10, 30, 60], "bbox_label": index, "ignore_flag": 1}]


def test_a_poster_of_a_crowd_is_background(tmp_path: Path) -> None:
    assert instances(tmp_path, person(50, "depiction", identity="person-group-far-away")) == []


def test_a_rider_is_as_high_as_what_is_boxed(tmp_path: Path) -> None:
    rider = thing("rider", (10, 10, 30, 40), children=[thing("bicycle", (8, 30, 32, 70))])
    for whole, ignored in ((True, 0), (False, 1)):
        (found,) = instances(tmp_path, rider, rider_includes_vehicle=whole, min_height_px=45)
        assert found["ignore_flag"] == ignored


@pytest.mark.parametrize("identity", ["bicycle-group", "co-rider", "bicycle", None])
def test_everything_else_is_background(tmp_path: Path, identity: object) -> None:
    assert instances(tmp_path, thing(identity, (10, 10, 30, 60))) == []


@pytest.mark.parametrize("box", [(10, 10, 10.5, 60), (10, 10, 30, 10)])
def test_a_box_thinner_than_a_pixel_is_left_out(tmp_path: Path, box: tuple[float, ...]) -> None:
    assert instances(tmp_path, thing("pedestrian", box), min_height_px=0) == []


@pytest.mark.parametrize(("whole", "box"), [(True, [90, 200, 150, 330]), (False, [100, 200, 140, 300])])
def test_a_rider_is_boxed_with_or_without_the_vehicle(tmp_path: Path, whole: bool, box: list[int]) -> None:
    vehicle = thing("bicycle", (90, 260, 150, 330), "occluded>80")
    rider = thing("rider", (100, 200, 140, 300), children=[vehicle])
    (found,) = instances(tmp_path, rider, rider_includes_vehicle=whole)
    assert found == {"bbox": box, "bbox_label": RIDER, "ignore_flag": 0}


def test_what_a_pedestrian_pushes_is_no_part_of_him(tmp_path: Path) -> None:
    buggy = thing("buggy", (90, 260, 150, 330))
    (found,) = instances(tmp_path, thing("pedestrian", (100, 200, 140, 300), children=[buggy]))
    assert found["bbox"] == [100, 200, 140, 300]


@pytest.mark.parametrize(("times", "count"), [(("day",), 2), (("night",), 1), (("day", "night"), 3)])
def test_times_of_day(tmp_path: Path, times: tuple[str, ...], count: int) -> None:
    write(tmp_path, person())
    write(tmp_path, person(), frame=1)
    write(tmp_path, time="night")
    dataset = EuroCityPersons(
        data_root=str(tmp_path), split="train", times=times, min_height_px=20, test_mode=True
    )
    assert len(dataset) == count
    assert [dataset.get_data_info(index)["img_id"] for index in range(count)] == list(range(count))


def test_damaged_and_missing_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        EuroCityPersons(data_root=str(tmp_path), split="train", min_height_px=20)
    write(tmp_path, thing("pedestrian", (30, 10, 10, 60)))
    with pytest.raises(DataError, match=r"rome_00000\.json"):
        EuroCityPersons(data_root=str(tmp_path), split="train", min_height_px=20)


def test_the_synthetic_streets_through_the_registry(streets: Path) -> None:
    """Images load, boxes lie inside them, and a small sample has both classes and things to be ignored."""
    pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "PackDetInputs"},
    ]
    dataset = DATASETS.build(
        {
            "type": "EuroCityPersons",
            "data_root": str(streets),
            "split": "train",
            "min_height_px": 4,
            "pipeline": pipeline,
        }
    )
    assert dataset.metainfo["classes"] == CLASSES and len(dataset) == 20
    seen = set()
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        assert (info["width"], info["height"]) == (128, 64)
        for instance in info["instances"]:
            x0, y0, x1, y1 = instance["bbox"]
            assert 0 <= x0 < x1 <= 128 and 0 <= y0 < y1 <= 64
            seen.add((instance["bbox_label"], instance["ignore_flag"]))
    assert seen >= {(PEDESTRIAN, 0), (RIDER, 0), (PEDESTRIAN, 1)}
    packed = dataset[0]
    assert packed["inputs"].shape == (3, 64, 128)
    kept = [instance for instance in dataset.get_data_info(0)["instances"] if not instance["ignore_flag"]]
    assert len(packed["data_samples"].gt_instances) == len(kept)
