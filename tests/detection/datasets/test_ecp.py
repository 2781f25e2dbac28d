from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spnas_hw.detection.datasets.ecp import Frame, Object, find_frames, read_frame
from spnas_hw.errors import DataError

LABEL: dict[str, Any] = {
    "identity": "frame",
    "imagewidth": 1920,
    "imageheight": 1024,
    "tags": ["rain"],
    "children": [
        {
            "identity": "rider",
            "x0": 100,
            "y0": 200,
            "x1": 140.5,
            "y1": 300,
            "tags": ["occluded>10", "truncated >40"],
            "children": [
                {"identity": "bicycle", "x0": 80, "y0": 260, "x1": 150, "y1": 320, "orient": 90.0, "tags": []}
            ],
        },
        {"identity": "pedestrian", "x0": 5, "y0": 6, "x1": 7, "y1": 9, "tags": [], "children": []},
    ],
}
numbers = st.floats(0, 2000)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def label_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for labels that the tests of this module overwrite, each with its own."""
    return tmp_path_factory.mktemp("labels") / "rome_00001.json"


def read(path: Path, document: object) -> Frame:
    path.write_text(json.dumps(document))
    return read_frame(path)


def read_object(path: Path, **changed: object) -> Object:
    thing = {"identity": "pedestrian", "x0": 1, "y0": 2, "x1": 3, "y1": 4, **changed}
    return read(path, {**LABEL, "children": [thing]}).objects[0]


def refused(path: Path, content: bytes) -> None:
    """Reading raises one line that names the file."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_frame(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def write_frames(root: Path, *names: str) -> None:
    """Empty images and labels, `time/split/city/frame` each."""
    for name in names:
        time, split, city, frame = name.split("/")
        for kind, ending in (("img", "png"), ("labels", "json")):
            path = root / time / kind / split / city / f"{city}_{frame}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def test_a_label_is_read_completely(label_path: Path) -> None:
    bicycle = Object("bicycle", (80, 260, 150, 320), 0, 0, (), ())
    rider = Object("rider", (100, 200, 140.5, 300), 10, 40, ("occluded>10", "truncated >40"), (bicycle,))
    pedestrian = Object("pedestrian", (5, 6, 7, 9), 0, 0, (), ())
    assert read(label_path, LABEL) == Frame(1920, 1024, ("rain",), (rider, pedestrian))


@pytest.mark.parametrize(
    "envelope",
    [
        lambda frame: {"@converter": "v1", "children": [{"children": [frame]}]},
        lambda frame: {"identity": "seqlist", "children": [frame]},
        lambda frame: {"identity": "seqlist", "children": {"children": frame}},
    ],
)
def test_envelopes_are_taken_off(label_path: Path, envelope: Callable[[object], object]) -> None:
    assert read(label_path, envelope(LABEL)) == read(label_path, LABEL)


@pytest.mark.parametrize("identity", ["co-rider", "", None, 7])
def test_unknown_identities_and_keys_are_tolerated(label_path: Path, identity: object) -> None:
    thing = read_object(label_path, identity=identity, Orient=None, tags=None, children=None, unheard_of={})
    assert thing == Object(str(identity), (1, 2, 3, 4), 0, 0, (), ())
    assert read(label_path, {**LABEL, "timestamp": "noon", "tags": None}).tags == ()


def test_a_frame_without_people(label_path: Path) -> None:
    assert read(label_path, {**LABEL, "children": []}).objects == ()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["occluded", "truncated"]),
            st.sampled_from(["", " ", "  "]),
            st.sampled_from(["", " "]),
            st.sampled_from([10, 40, 80]),
        ),
        max_size=4,
    ),
    st.lists(
        st.sampled_from(["depiction", "sitting-lying", "occluded", "occluded>", ">40", "xoccluded>80", "é"])
        | st.text(alphabet="abc>", max_size=6),
        max_size=3,
    ),
    st.randoms(use_true_random=False),
)
def test_tags(
    label_path: Path, known: list[tuple[str, str, str, int]], unknown: list[str], random: Any
) -> None:
    """Blanks around `>` do not matter, the strongest tag counts, and unknown tags are kept as they are."""
    tags = [f"{name}{before}>{after}{share}" for name, before, after, share in known] + unknown
    random.shuffle(tags)
    thing = read_object(label_path, tags=tags)
    assert thing.tags == tuple(tags)
    for name, found in (("occluded", thing.occlusion), ("truncated", thing.truncation)):
        assert found == max((share for other, _, _, share in known if other == name), default=0)


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=4))
def test_the_union_is_the_smallest_box_around_all(corners: list[tuple[float, ...]]) -> None:
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    children = tuple(Object("bicycle", box, 0, 0, (), ()) for box in boxes[1:])
    union = Object("rider", boxes[0], 0, 0, (), children).union()
    for axis in range(4):
        edges = [box[axis] for box in boxes]
        assert union[axis] in edges  # no smaller box would do
        assert all(union[axis] <= edge if axis < 2 else union[axis] >= edge for edge in edges)


def test_a_label_cut_off_at_any_byte_is_refused(label_path: Path) -> None:
    content = json.dumps({**LABEL, "tags": ["brouillard épais"]}, ensure_ascii=False, indent=1).encode()
    for length in range(len(content)):
        refused(label_path, content[:length])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"\x89PNG\r\n\x1a\n",
        b"null",
        b"1",
        b'"frame"',
        b'"@converter"',
        b"[]",
        b"{}",
        b'{"@converter": 1}',
        b'{"@converter": 1, "children": []}',
        b'{"@converter": 1, "children": [{"children": {}}]}',
        b'{"identity": "seqlist", "children": []}',
        b"[" * 100_000,
        b"1" * 5_000,
    ],
    ids=lambda content: repr(content[:24]),
)
def test_what_is_no_label_is_refused(label_path: Path, content: bytes) -> None:
    refused(label_path, content)


def damages() -> Iterator[tuple[str, list[object], object]]:
    """(name, path of keys into LABEL, value put there); Ellipsis takes the key away."""
    rider: list[object] = ["children", 0]
    bicycle = [*rider, "children", 0]
    for key in ("imagewidth", "imageheight", "children"):
        yield f"no {key}", [key], ...
    for key in ("imagewidth", "imageheight"):
        for number in (None, "1920", [], True, 0, -1, float("nan"), float("inf"), 10**400):
            yield f"{key} {number!r:.9}", [key], number
    for key in ("x0", "y0", "x1", "y1"):
        for thing in (rider, bicycle):
            yield f"no {key} at depth {len(thing)}", [*thing, key], ...
        for number in (None, "12", [1], {}, True, float("nan"), float("inf"), 10**400):
            yield f"{key} {number!r:.9}", [*rider, key], number
    for name, key, value in (("x", "x1", 99), ("y", "y1", 199)):
        yield f"{name} in the wrong order", [*rider, key], value
        yield f"{name} of the vehicle in the wrong order", [*bicycle, key], 1
    for value in (None, 3, "", "rider", {}, True):
        yield f"children {value!r}", ["children"], value
        yield f"child {value!r}", rider, value
    for value in (3, "", "occluded>80", {"occluded": 80}, True):
        yield f"tags {value!r}", [*rider, "tags"], value
        yield f"tags of the frame {value!r}", ["tags"], value
        yield f"vehicle {value!r}", [*rider, "children"], value


@pytest.mark.parametrize(("keys", "value"), [pytest.param(*rest, id=name) for name, *rest in damages()])
def test_a_damaged_label_is_refused(label_path: Path, keys: list[Any], value: object) -> None:
    document = copy.deepcopy(LABEL)
    holder: Any = document
    for key in keys[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[keys[-1]]
    else:
        holder[keys[-1]] = value
    refused(label_path, json.dumps(document).encode())


@given(st.sampled_from(["imagewidth", "tags", "children", "identity", "x1", "child"]), json_values)
def test_any_value_is_read_or_refused(label_path: Path, key: str, value: object) -> None:
    """Whatever stands at a key, nothing but a DataError is raised, and what is read is sound."""
    document = copy.deepcopy(LABEL)
    if key == "child":
        document["children"][0] = value
    elif key in document and key != "identity":
        document[key] = value
    else:
        document["children"][0][key] = value
    try:
        frame = read(label_path, document)
    except DataError as error:
        assert str(label_path) in str(error) and "\n" not in str(error)
        return
    assert frame.width > 0 and frame.height > 0
    for thing in frame.objects:
        assert thing.box[0] <= thing.box[2] < float("inf") and thing.box[1] <= thing.box[3] < float("inf")


@given(st.binary(max_size=40))
def test_any_bytes_are_refused(label_path: Path, content: bytes) -> None:
    refused(label_path, content)


def test_a_label_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            read_frame(path)


@pytest.mark.parametrize("prefix", ["", "ECP"])
def test_frames_are_found_sorted_with_their_labels(tmp_path: Path, prefix: str) -> None:
    base = tmp_path / prefix
    write_frames(base, "night/train/bari/00000", "day/train/rome/00001", "day/train/rome/00000")
    write_frames(base, "day/train/bonn/00007", "day/val/bari/00000")
    (base / "day/img/train/rome/readme.txt").touch()
    frames = find_frames(tmp_path, "train")
    images = [paths.image.relative_to(base).as_posix() for paths in frames]
    assert images == [
        "day/img/train/bonn/bonn_00007.png",
        "day/img/train/rome/rome_00000.png",
        "day/img/train/rome/rome_00001.png",
        "night/img/train/bari/bari_00000.png",
    ]
    for paths in frames:
        label = paths.image.as_posix().replace("/img/", "/labels/").replace(".png", ".json")
        assert paths.label == Path(label) and paths.label.exists()
    assert find_frames(tmp_path, "train", ["day"]) == frames[:3]
    assert find_frames(tmp_path, "train", ["night"]) == frames[3:]


def test_an_image_without_its_label_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path, "day/train/rome/00000", "day/train/rome/00001")
    label = tmp_path / "day/labels/train/rome/rome_00001.json"
    label.unlink()
    with pytest.raises(DataError, match=r"rome_00001\.png has no label .*rome_00001\.json"):
        find_frames(tmp_path, "train")


def test_a_label_without_its_image_is_refused(tmp_path: Path) -> None:
    """Half an unpacked archive would silently be a smaller data set."""
    write_frames(tmp_path, "day/train/rome/00000", "day/train/rome/00001", "night/train/rome/00002")
    (tmp_path / "day/img/train/rome/rome_00001.png").unlink()
    with pytest.raises(DataError, match=r"1 labels have no image, such as .*rome_00001\.json"):
        find_frames(tmp_path, "train")
    assert len(find_frames(tmp_path, "train", ["night"])) == 1


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "ECP", "day/train/rome/00000")
    (tmp_path / "ECP/day/img/val/rome").mkdir(parents=True)
    for root, split, times in (
        (tmp_path, "val", ["day", "night"]),
        (tmp_path, "train", ["night"]),
        (tmp_path, "train", []),
        (tmp_path / "nowhere", "train", ["day"]),
    ):
        with pytest.raises(DataError, match=f"no images in {root}.*{split}"):
            find_frames(root, split, times)


def test_an_unknown_time_of_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'dusk'.*day, night"):
        find_frames(tmp_path, "train", ["day", "dusk"])
