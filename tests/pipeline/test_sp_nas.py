"""Pipeline files: the reference's keys, their spellings, and what is said of wrong ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from spnas_hw.cli import main
from spnas_hw.config import configs_folder, load_search
from spnas_hw.errors import InvalidConfig
from spnas_hw.pipeline.sp_nas import load_pipeline
from spnas_hw.pipeline.sp_nas_run import best_code, iterations_of, list_path, run_of, without_effect

# The keys and values as the reference prints them.
REFERENCE = """
general:
  worker:
    timeout: 1000
    gpus_per_job: -1
pipeline: [nas1, nas2, fullytrain]
nas1:
  pipe_step:
    type: SpNasPipeStep
  search_algorithm:
    type: SpNas
    codec: SpNasCodec
    total_list: 'total_list_s.csv'
    sample_level: 'serial'
    max_sample: 10
    max_optimal: 5
    serial_settings:
      num_mutate: 3
      addstage_ratio: 0.05
      expend_ratio: 0.3
      max_stages: 5
    regnition: False
  search_space:
    type: SearchSpace
    config_template_file: ./faster_rcnn_r50_fpn_1x_streets.py
    epoch: 1
nas2:
  pipe_step:
    type: SpNasPipeStep
  search_algorithm:
    type: SpNas
    codec: SpNasCodec
    total_list: 'total_list_p.csv'
    sample_level: 'parallel'
    max_sample: 20
    max_optimal: 1
    serial_settings:
    last_search_result: 'total_list_s.csv'
    regnition: False
  search_space:
    type: SearchSpace
    config_template_file: ./faster_rcnn_r50_fpn_1x_streets.py
    epoch: 3
fullytrain:
  pipe_step:
    type: FullyTrainPipeStep
  trainer:
    type: SpNasTrainer
    gpus: 8
    model_desc_file: "{local_base_path}/output/total_list_p.csv"
    config_template: "./faster_rcnn_r50_fpn_1x_streets.py"
    regnition: False
    epoch: 12
    debug: False
"""
DOCUMENT = yaml.safe_load(REFERENCE)
GONE = object()


def written(tmp_path: Path, **changes: Any) -> str:
    """The reference's file with other values at dotted keys (`__` for the dot); GONE takes a key away."""
    document = copy.deepcopy(DOCUMENT)
    for key, value in changes.items():
        *parents, last = key.split("__")
        where = document
        for parent in parents:
            where = where[parent]
        if value is GONE:
            del where[last]
        else:
            where[last] = value
    path = tmp_path / "sp_nas.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return str(path)


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        action()
    message = str(caught.value)
    assert all(word in message for word in words) and "\n" not in message, message


def test_every_key_of_the_reference_arrives(tmp_path: Path) -> None:
    path = tmp_path / "sp_nas.yml"
    path.write_text(REFERENCE)
    pipeline = load_pipeline(str(path))
    assert pipeline.order == ("nas1", "nas2", "fullytrain")
    serial, parallel, training = pipeline.to_run()
    assert serial.search_algorithm.serial_settings.max_stages == 5
    assert parallel.search_algorithm.last_search_result == "total_list_s.csv"
    assert (training.trainer.gpus, training.trainer.epoch) == (8, 12)
    assert (pipeline.general.worker.timeout, pipeline.general.worker.gpus_per_job) == (1000, -1)

    run = run_of(pipeline, tmp_path / "run")
    config = run.config
    settings = config.serial
    assert (settings.max_sample, settings.max_optimal, settings.num_mutate) == (10, 5, 3)
    assert (settings.add_stage_prob, settings.expand_prob, settings.reignitions) == (0.05, 0.3, 0)
    assert config.space.stages == (4, 5)
    assert config.parallel is not None and config.parallel.max_sample == 20
    assert config.start == "r_111-2111-211111-211"
    assert config.schedule.iterations == 2000 / 4  # one epoch
    assert config.schedule.iterations * config.parallel.share == 3 * 2000 / 4
    assert iterations_of(config, training.trainer.epoch) == 12 * 2000 / 4
    assert run.table is None and run.budget.latency_ms is None
    assert without_effect(pipeline) == ["general.worker.timeout has no effect"]


SHIPPED = sorted(path.stem for path in (configs_folder() / "searches").glob("sp_nas*.yml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_pipeline_loads_with_its_template(name: str, tmp_path: Path) -> None:
    pipeline = load_pipeline(name)
    assert pipeline == load_pipeline(str(configs_folder() / "searches" / f"{name}.yml"))
    kinds = {"sp_nas": "streets", "sp_nas_coco": "coco", "sp_nas_voc": "voc", "sp_nas_ecp": "ecp"}
    template = pipeline.steps[0].search_space.config_template_file
    assert load_search(Path(template).stem).dataset.type == kinds[name]
    if name == "sp_nas":  # the others count images, which are not here
        assert run_of(pipeline, tmp_path).config.dataset.type == "streets"


@pytest.mark.parametrize("name", ["expend_ratio", "expand_ratio", "expand_prob"])
@pytest.mark.parametrize("stage", ["addstage_ratio", "add_stage_ratio", "addstage_prob", "add_stage_prob"])
@pytest.mark.parametrize("reignite", ["regnition", "reignition"])
def test_spellings_mean_the_same(tmp_path: Path, name: str, stage: str, reignite: str) -> None:
    mutation = {"num_mutate": 3, "max_stages": 5, name: 0.4, stage: 0.1}
    algorithm = {**DOCUMENT["nas1"]["search_algorithm"], "serial_settings": mutation, reignite: False}
    algorithm = {k: v for k, v in algorithm.items() if k != "regnition" or reignite == "regnition"}
    step = load_pipeline(written(tmp_path, nas1__search_algorithm=algorithm)).phase("serial")
    assert step is not None and step.search_algorithm.serial_settings is not None
    found = step.search_algorithm.serial_settings
    assert (found.expand_prob, found.add_stage_prob) == (0.4, 0.1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nas1__search_algorithm__serial_settings__expand_ratio": 0.3}, ["serial_settings.expand_ratio"]),
        ({"nas1__search_algorithm__serial_settings__addstage_prob": 0.3}, ["serial_settings.addstage_prob"]),
        ({"nas2__search_algorithm__reignition": False}, ["nas2.search_algorithm.reignition"]),
        ({"fullytrain__trainer__reignition": False}, ["fullytrain.trainer.reignition"]),
    ],
)
def test_two_spellings_at_once_are_refused(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = written(tmp_path, **changes)
    refused(lambda: load_pipeline(path), path, "twice", *words)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("generals", "general"),
        ("budgets", "budget"),
        ("nas3", "nas2"),
        ("general__workers", "worker"),
        ("general__worker__gpu_per_job", "gpus_per_job"),
        ("nas1__pipe_steps", "pipe_step"),
        ("nas1__pipe_step__typ", "type"),
        ("nas1__search_algorithms", "search_algorithm"),
        ("nas1__search_algorithm__max_sampels", "max_sample"),
        ("nas1__search_algorithm__serial_setting", "serial_settings"),
        ("nas1__search_algorithm__serial_settings__expend_rato", "expend_ratio"),
        ("nas1__search_algorithm__serial_settings__num_mutates", "num_mutate"),
        ("nas1__search_space__config_template", "config_template_file"),
        ("nas1__search_space__epochs", "epoch"),
        ("nas2__search_algorithm__last_search_results", "last_search_result"),
        ("nas2__search_algorithm__regnitoin", "regnition"),
        ("fullytrain__trainer__model_desc_fil", "model_desc_file"),
        ("fullytrain__trainer__gpu", "gpus"),
        ("fullytrain__search_space", "trainer"),
        ("fullytrain__name", "pipe_step"),
    ],
)
def test_a_misspelt_key_is_named_with_the_nearest(tmp_path: Path, key: str, near: str) -> None:
    path = written(tmp_path, **{key: {}})
    words = [] if key in ("fullytrain__search_space", "fullytrain__name") else [f"did you mean {near}?"]
    refused(lambda: load_pipeline(path), path, f"unknown key {key.replace('__', '.')};", *words)


def test_a_misspelt_budget_and_a_missing_pipeline(tmp_path: Path) -> None:
    path = written(tmp_path, budget={"latency": 3})
    refused(lambda: load_pipeline(path), path, "budget.latency", "latency_ms")
    path = written(tmp_path, pipeline=GONE, pipelin=["nas1"])
    refused(lambda: load_pipeline(path), path, "unknown key pipelin", "did you mean pipeline?")
    path = written(tmp_path, nas1__pipe_step=GONE, nas1__pipestep={})
    refused(lambda: load_pipeline(path), path, "unknown key nas1.pipestep", "did you mean pipe_step?")
    path = written(tmp_path, nas1__pipe_step=GONE)
    refused(lambda: load_pipeline(path), path, "nas1 has no key pipe_step")


ALGORITHM = "nas1__search_algorithm"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{ALGORITHM}__serial_settings__expend_ratio": 1.2}, ["1.2", "within 0 and 1"]),
        ({f"{ALGORITHM}__serial_settings__addstage_ratio": 0.8}, ["0.8", "in total"]),
        ({f"{ALGORITHM}__serial_settings__expend_ratio": -0.1}, ["-0.1"]),
        ({f"{ALGORITHM}__serial_settings__expend_ratio": float("nan")}, ["nan"]),
        ({f"{ALGORITHM}__serial_settings__num_mutate": 0}, ["num_mutate"]),
        ({f"{ALGORITHM}__serial_settings__max_stages": GONE}, ["max_stages", "required"]),
        ({f"{ALGORITHM}__serial_settings": None}, ["serial_settings"]),
        ({f"{ALGORITHM}__sample_level": "both"}, ["nas1", "sample_level", "'serial' or 'parallel'", "both"]),
        ({f"{ALGORITHM}__max_sample": 0}, ["max_sample"]),
        ({f"{ALGORITHM}__max_sample": "many"}, ["max_sample", "many"]),
        ({f"{ALGORITHM}__max_sample": GONE}, ["max_sample"]),
        ({f"{ALGORITHM}__type": "SpNasX"}, ["search_algorithm.type", "SpNasX"]),
        ({f"{ALGORITHM}__codec": "Codec"}, ["search_algorithm.codec"]),
        ({ALGORITHM: 3}, ["nas1", "search_algorithm"]),
        ({"nas1__search_space__epoch": 0}, ["epoch"]),
        ({"nas1__search_space__epoch": 1.5}, ["epoch", "1.5"]),
        ({"nas1__pipe_step__type": "SpNasPipeStp"}, ["nas1.pipe_step", "SpNasPipeStp"]),
        ({"nas2__search_algorithm__max_optimal": 2}, ["max_optimal must be 1"]),
        ({"nas2__search_algorithm__serial_settings": {"num_mutate": 1}}, ["serial_settings"]),
        ({"nas2__search_algorithm__regnition": True}, ["regnition"]),
        ({"nas2__search_algorithm__sample_level": "serial"}, ["nas2", "serial_settings"]),
        ({"fullytrain__trainer__model_desc_file": GONE}, ["model_desc"]),
        ({"fullytrain__trainer__model_desc": "r_11"}, ["one of them"]),
        (
            {"fullytrain__trainer__model_desc_file": None, "fullytrain__trainer__model_desc": "q_1"},
            ["fullytrain", "'q_1'"],
        ),
        ({"fullytrain__trainer__epoch": GONE}, ["trainer.epoch"]),
        ({"fullytrain__trainer__gpus": 0}, ["gpus"]),
        ({"pipeline": ["nas1", "nas22"]}, ["nas22", "did you mean nas2?"]),
        ({"pipeline": ["nas1", "nas1"]}, ["twice"]),
        ({"pipeline": []}, ["pipeline"]),
        ({"pipeline": "nas1"}, ["pipeline"]),
        ({"nas1": None}, ["nas1"]),
        ({"nas3": DOCUMENT["nas1"]}, ["nas1 and nas3 are both serial"]),
        ({"budget": {"latency_ms": 40}}, ["latency_ms", "table"]),
        ({"budget": {"macs": -1}}, ["macs", "-1"]),
        ({"budget": 40}, ["budget"]),
        ({"general": 1}, ["general"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": "one"}, ["seed", "one"]),
        ({"table": 3}, ["table"]),
    ],
)
def test_wrong_values_are_one_line(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = written(tmp_path, **changes)
    refused(lambda: load_pipeline(path), path, *words)


TEMPLATE = "search_space__config_template_file"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({f"{ALGORITHM}__total_list": "mine.csv"}, ["nas1", "mine.csv", "total_list_s.csv"]),
        ({f"{ALGORITHM}__serial_settings__max_stages": 3}, ["stages", "(4, 3)"]),
        ({f"{ALGORITHM}__regnition": True}, ["reignition"]),
        ({f"{ALGORITHM}__last_search_result": "total_list_s.csv"}, ["nas1", "last_search_result"]),
        ({f"{ALGORITHM}__last_search_result": "no/list.csv"}, ["nas1", "no/list.csv", "cannot be read"]),
        ({"nas2__search_algorithm__last_search_result": GONE}, ["nas2", "list of nas1"]),
        ({"nas2__search_algorithm__last_search_result": "other/a.csv"}, ["nas2", "other/a.csv"]),
        ({"fullytrain__trainer__regnition": True}, ["fullytrain", "reignition in the template"]),
        ({f"nas2__{TEMPLATE}": "./demo.py"}, ["one template", "nas2: ./demo.py"]),
        (
            {
                f"nas1__{TEMPLATE}": "r18.py",
                f"nas2__{TEMPLATE}": "r18.py",
                "fullytrain__trainer__config_template": "r18.py",
            },
            ["template 'r18.py'", "faster_rcnn_r50_fpn_1x"],
        ),
    ],
)
def test_what_could_not_be_run_is_said_before(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    pipeline = load_pipeline(written(tmp_path, **changes))
    refused(lambda: run_of(pipeline, tmp_path / "run"), str(pipeline.file), *words)


def test_several_gpus_are_one_and_said_to_be(tmp_path: Path) -> None:
    changes = {"general__worker__gpus_per_job": 4, "general__parallel_search": True}
    pipeline = load_pipeline(written(tmp_path, **changes))
    (note,) = [line for line in without_effect(pipeline) if "one process" in line]
    for key in ("general.worker.gpus_per_job", "general.parallel_search"):
        assert key in note
    assert "fullytrain" not in note  # it may take several


def test_a_template_beside_the_file_comes_first(tmp_path: Path) -> None:
    document = yaml.safe_load((configs_folder() / "searches" / "demo.yml").read_text())
    document["dataset"] = {
        "type": "streets",
        "root": "x",
        "min_height_px": 9,
        "train": 7,
        "val": 1,
        "seed": 0,
    }
    document["schedule"].update(batch_size=1, warmup_iterations=1)
    (tmp_path / "faster_rcnn_r50_fpn_1x_streets.yml").write_text(yaml.safe_dump(document))
    config = run_of(load_pipeline(written(tmp_path)), tmp_path).config
    assert (config.dataset.train, config.schedule.iterations) == (7, 7)


def test_where_lists_lie(tmp_path: Path) -> None:
    for text in ("a.csv", "{local_base_path}/output/a.csv", "{local_base_path}/a.csv"):
        assert list_path(text, tmp_path) == tmp_path / "a.csv"
    assert list_path("/elsewhere/a.csv", tmp_path) == Path("/elsewhere/a.csv")


def test_the_best_of_another_list_is_where_a_phase_starts(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    rows = "arch,mAP\nr_111-2111-211111-211,0.1\nr_111-2111-2111-211_0-0-0-0,0.3\nr_11-21-21-21,\n"
    (other / "list.csv").write_text(rows)
    assert best_code(other / "list.csv") == "r_111-2111-2111-211_0-0-0-0"
    key = f"{ALGORITHM}__last_search_result"
    pipeline = load_pipeline(written(tmp_path, **{key: str(other / "list.csv")}))
    assert run_of(pipeline, tmp_path / "run").config.start == "r_111-2111-2111-211_0-0-0-0"
    for text, word in (("arch,mAP\n", "no row"), ("a,b\n1,2\n", "columns"), ("arch,mAP\nr_1,x\n", "columns")):
        (other / "list.csv").write_text(text)
        refused(lambda: best_code(other / "list.csv"), str(other), word)


def test_steps_that_are_not_run_keep_the_run_the_same(tmp_path: Path) -> None:
    """A run of nas1 alone goes on with the other steps later."""
    folder = tmp_path / "run"
    whole = run_of(load_pipeline(written(tmp_path)), folder)
    first = run_of(load_pipeline(written(tmp_path, pipeline=["nas1"])), folder)
    assert whole.header() == first.header()


def test_either_kind_of_file_names_the_other_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, hint in (
        (["search", "--config", "sp_nas", "--macs", "1e9"], "spnas-hw run"),
        (["run", "demo"], "spnas-hw search --config"),
        (["run", "nothing.yml"], "sp_nas_coco"),
    ):
        with pytest.raises(SystemExit):
            main(words)
        error = capsys.readouterr().err
        assert hint in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
