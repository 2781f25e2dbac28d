from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spnas_hw.config import SearchConfig, build, configs_folder, fingerprint, load_search, overridden
from spnas_hw.errors import InvalidConfig
from spnas_hw.space.architecture import Block

SHIPPED = sorted((configs_folder() / "searches").glob("*.yml"))
SEARCHES = [path for path in SHIPPED if not path.stem.startswith("sp_nas")]  # those are pipelines


@pytest.mark.parametrize("path", SEARCHES, ids=lambda p: p.stem)
def test_every_shipped_search_loads(path: Path) -> None:
    config = load_search(path.stem)
    assert config == load_search(str(path))
    assert config.space.blocks and config.detector.classes


def test_every_shipped_file_belongs_to_a_room() -> None:
    """Spaces, detectors and data sets load in the place of those of the demo."""
    for folder, key in (("spaces", "space"), ("detectors", "detector"), ("datasets", "dataset")):
        for path in (configs_folder() / folder).glob("*.yml"):
            document = yaml.safe_load((configs_folder() / "searches" / "demo.yml").read_text())
            for other, name in (("space", "spaces"), ("detector", "detectors"), ("dataset", "datasets")):
                chosen = path if other == key else configs_folder() / name / f"{document[other]}.yml"
                document[other] = yaml.safe_load(chosen.read_text())
            assert build(SearchConfig, document, path.name)


def written(tmp_path: Path, **changes) -> str:
    document = yaml.safe_load((configs_folder() / "searches" / "demo.yml").read_text())
    for key, value in changes.items():
        where = document
        *parents, last = key.split("__")
        for parent in parents:
            where = where[parent]
        where[last] = value
    path = tmp_path / "search.yml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"headrom": 0.1}, ["headrom", "headroom"]),
        ({"schedule__iteration": 3}, ["schedule.iteration", "iterations"]),
        ({"serial__expend_prob": 0.3}, ["serial.expend_prob", "expand_prob"]),
        ({"schedule__iterations": "many"}, ["schedule.iterations", "many"]),
        ({"serial__expand_prob": 1.5}, ["serial", "probabilities"]),
        ({"headroom": 1}, ["headroom"]),
        ({"start": "b16_13-1"}, ["position", "b16_13-1"]),
        ({"input_width": 100}, ["multiple of 32"]),
        ({"input_height": 0}, ["input_height", "above 0"]),
        ({"seed": -1}, ["seed"]),
        ({"schedule__iterations": 0}, ["iterations", "above 0"]),
        ({"schedule__learning_rate": float("nan")}, ["learning_rate"]),
        ({"schedule__warmup_iterations": 9999}, ["warmup_iterations"]),
        ({"detector": {"classes": ["rider", "rider"]}}, ["classes", "distinct"]),
        ({"detector": {"classes": ["pedestrian", "rider"], "neck_channels": 0}}, ["neck_channels"]),
        ({"space": {"blocks": ["b"], "base_channels": 15}}, ["base_channels", "15"]),
        ({"space": "slime"}, ["slime", "slim"]),
        ({"space": {"blocks": ["q"]}}, ["'q'"]),
        ({"dataset": {"type": "ecp", "root": "x", "min_height_px": 1, "seed": 1}}, ["dataset"]),
        ({"dataset": {"type": "streets", "root": "x", "min_height_px": 1}}, ["dataset"]),
        ({"dataset": {"type": "ecp", "root": "x"}}, ["dataset", "min_height_px"]),
        ({"dataset": {"type": "ecp", "root": "x", "min_height_px": -1}}, ["min_height_px", "-1"]),
        ({"dataset": {"type": "coco", "root": "x", "min_height_px": 1}}, ["min_height_px", "coco"]),
        ({"dataset": {"type": "voc", "root": "x", "seed": 1}}, ["seed", "streets"]),
        ({"dataset": {"type": "cocoa", "root": "x"}}, ["dataset.type", "coco"]),
    ],
)
def test_wrong_configurations_name_the_fault(tmp_path: Path, changes: dict, words: list[str]) -> None:
    with pytest.raises(InvalidConfig) as caught:
        load_search(written(tmp_path, **changes))
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yml"
    path.write_text(text)
    with pytest.raises(InvalidConfig) as caught:
        load_search(str(path))
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Nested, too; YAML itself would keep the last one."""
    text = Path(written(tmp_path)).read_text()
    for more, line in (
        ("seed: 1\n", text.count("\n") + 1),
        ("serial: {max_sample: 1, max_sample: 2}\n", None),
    ):
        (tmp_path / "twice.yml").write_text(text + more)
        with pytest.raises(InvalidConfig, match="stands there twice") as caught:
            load_search(str(tmp_path / "twice.yml"))
        assert line is None or f"line {line}" in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    document = yaml.safe_load(Path(written(tmp_path)).read_text())
    del document["schedule"]
    (tmp_path / "search.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(InvalidConfig, match="schedule"):
        load_search(str(tmp_path / "search.yml"))


def test_blocks_are_written_as_in_codes(tmp_path: Path) -> None:
    config = load_search(written(tmp_path, space="resnet"))
    assert config.space.blocks == (Block("basic"), Block("bottleneck"), Block("resnext", 32, 4))


def test_a_configuration_survives_json() -> None:
    """A run's journal keeps it so."""
    config = load_search("demo")
    document = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    assert build(SearchConfig, document, "journal") == config


def test_fingerprint_is_the_same_in_another_process() -> None:
    program = "from spnas_hw.config import *; print(fingerprint(load_search('demo')))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprint(load_search("demo"))
    assert fingerprint(overridden(load_search("demo"), max_sample=None, seed=99)) != other.stdout.strip()


def test_overridden() -> None:
    config = overridden(load_search("demo"), max_sample=3, seed=7)
    assert (config.serial.max_sample, config.seed) == (3, 7)
    assert overridden(config, max_sample=None, seed=None) == config
