"""`spnas-hw train`: what it takes, what it leaves, and the shipped settings on data of each real layout."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mmdet.models.backbones import ResNet

from spnas_hw.config import Dataset, SearchConfig, build, configs_folder, load_search
from spnas_hw.detection.datasets import image_paths, prepare
from spnas_hw.run import Run
from spnas_hw.space.codec import decode

from .command import refused, spnas_hw, succeeded
from .detection.datasets.standins import write_coco, write_voc
from .miniature import MINIATURE

CODE = "b4_11-2"
CONFIG = build(SearchConfig, MINIATURE, "mini.yml")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a run that searched."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "mini.yml").write_text(yaml.safe_dump(MINIATURE))
    words = ("--macs", "1e9", "--max-sample", "2", "--phase", "serial", "--run", "runs/searched")
    succeeded(folder, "search", "--config", "mini.yml", *words)
    return folder


def trained(folder: Path, *words: str) -> dict[str, Any]:
    return json.loads(succeeded(folder, "train", *words, "--json").splitlines()[-1])


def test_a_code_is_trained_shipped_and_not_trained_again(home: Path) -> None:
    words = (CODE, "--config", "mini.yml", "--epochs", "2", "--run", "runs/code")
    found = trained(home, *words)
    trial = found["fully_trained"]
    assert (trial["code"], trial["iterations"], trial["parent_id"]) == ("b4_11-2_0-0", 6, None)
    assert "lamr/day_pedestrian_all" in trial["metrics"]
    assert trained(home, *words) == found
    assert "another epochs: remove it" in refused(home, "train", *words[:3], "--epochs", "3", *words[5:])
    exported = succeeded(home, "export", "runs/code", "--fully-trained", "--json")
    assert json.loads(exported.splitlines()[-1])["code"] == "b4_11-2_0-0"


def test_a_training_that_failed_goes_on_at_its_checkpoint(home: Path) -> None:
    """And ends as if nothing had happened."""
    words = (CODE, "--config", "few.yml", "--epochs", "2")
    document = {**MINIATURE, "dataset": {**MINIATURE["dataset"], "root": "few"}}
    (home / "few.yml").write_text(yaml.safe_dump(document))
    whole = trained(home, *words, "--run", "runs/whole")["fully_trained"]
    image = image_paths(replace(CONFIG.dataset, root=home / "few"), "val")[0]
    content = image.read_bytes()
    image.write_bytes(b"damaged")
    code, _, errors = spnas_hw(home, "train", *words, "--run", "runs/failed")
    assert code == 1 and image.name in errors.splitlines()[-1]
    image.write_bytes(content)
    folder = home / "runs/failed/fullytrain/0000"
    assert (folder / "checkpoint.pth").exists()
    (line,) = succeeded(home, "train", *words, "--run", "runs/failed", "--json").splitlines()
    found = json.loads(line)["fully_trained"]
    assert (found["trial_id"], found["metrics"]) == (0, whole["metrics"])
    again = sorted(folder.parent.iterdir())
    assert [path.name for path in again] == ["0000", "journal.jsonl"]


def test_what_does_not_suit_the_data_is_refused_before_anything_is_written(home: Path) -> None:
    document = yaml.safe_load((home / "mini.yml").read_text())
    document["schedule"] |= {"warmup_iterations": 3, "iterations": 4, "start_iterations": 6}
    (home / "short.yml").write_text(yaml.safe_dump(document))
    line = refused(home, "train", CODE, "--config", "short.yml", "--epochs", "1", "--run", "runs/short")
    assert "warmup_iterations is 3, of 3 iterations in all (1 epochs of 6 images)" in line
    assert not (home / "runs/short").exists()


def test_brackets_in_names_are_printed(home: Path) -> None:
    words = (CODE, "--config", "mini.yml", "--epochs", "1", "--run", "runs/[bold]")
    assert "next: spnas-hw export runs/[bold] --fully-trained" in succeeded(home, "train", *words)


def test_the_winner_of_a_run_goes_on_from_its_weights(home: Path) -> None:
    run = Run.open(home / "runs/searched")
    best = run.winner()
    trial = trained(home, "runs/searched", "--epochs", "1")["fully_trained"]
    assert (trial["code"], trial["parent_code"]) == (best.code, best.code)
    assert trial["iterations"] == best.iterations + 3
    assert "leave --run and --table out" in refused(home, "train", "runs/searched", "--run", "x")


def test_the_best_of_a_list_is_trained(home: Path) -> None:
    words = ("runs/searched/total_list_s.csv", "--config", "mini.yml", "--epochs", "1", "--run", "runs/list")
    best = Run.open(home / "runs/searched").winner()
    assert trained(home, *words)["fully_trained"]["code"] == best.code


def test_a_one_stage_detector(home: Path) -> None:
    """Trained, exported with PyTorch's detections, evaluated."""
    two_stages = {"proposals", "finest_scale", "roi_channels"}
    own = {key: value for key, value in MINIATURE["detector"].items() if key not in two_stages}
    detector = {**own, "type": "retinanet", "head_convs": 1, "score_threshold": 0.005}
    (home / "retina.yml").write_text(yaml.safe_dump({**MINIATURE, "detector": detector}))
    trained(home, CODE, "--config", "retina.yml", "--epochs", "1", "--run", "runs/retina")
    exported = succeeded(home, "export", "runs/retina", "--fully-trained", "--json")
    parity = json.loads(exported.splitlines()[-1])["parity"]["onnxruntime"]
    assert parity["exact"]["images"] == 4 and parity["metric_error"] < 1e-4
    found = json.loads(
        succeeded(home, "evaluate", "runs/retina", "--fully-trained", "--json").splitlines()[-1]
    )
    assert found["detections"] > 0 and found["metrics"]["mAP"] is not None


def test_two_processes(home: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("they are for machines without a GPU")
    words = (CODE, "--config", "mini.yml", "--epochs", "1", "--run", "runs/two", "--processes", "2")
    output = succeeded(home, "train", *words)
    assert "fully trained b4_11-2_0-0" in output and "--fully-trained" in output
    header = json.loads((home / "runs/two/fullytrain/journal.jsonl").read_text().splitlines()[0])
    assert header["processes"] == 2


def test_it_starts_from_a_checkpoint(home: Path) -> None:
    """That of a classifier whose stem is as wide."""
    torch.save(ResNet(18, base_channels=4, stem_channels=4).state_dict(), home / "r18.pth")
    code, words = "b4_11-21-21-21", ("--config", "mini.yml", "--epochs", "1")
    found = trained(home, code, *words, "--run", "runs/pretrained", "--pretrained", "r18.pth")
    assert found["fully_trained"]["code"].startswith(code)
    assert (home / "runs/pretrained/fullytrain/0000/start/weights.safetensors").exists()
    line = refused(home, "train", CODE, *words, "--run", "runs/other", "--pretrained", "r18.pth")
    assert "another network" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((CODE,), "says nothing of data and detector: give --config"),
        ((CODE, "--config", "mini.yml"), "no key training: give --epochs"),
        ((CODE, "--config", "mini.yml", "--epochs", "1", "--reignite"), "no searched weights to reignite"),
        ((CODE, "--config", "mini.yml", "--epochs", "1", "--pretrained", "no.pth"), "no.pth"),
        (("nowhere.csv", "--config", "mini.yml"), "nowhere.csv cannot be read"),
        (("runs/nowhere", "--epochs", "1"), "runs/nowhere is no run folder"),
        (("runs/searched", "--epochs", "1", "--gpus", "64"), "--gpus 64: there are"),
        (("worse", "--config", "mini.yml", "--epochs", "1"), "it must start with b"),
    ],
)
def test_what_cannot_be_trained_is_one_line(home: Path, words: tuple[str, ...], message: str) -> None:
    assert message in refused(home, "train", *words, *(("--run", "runs/bad") if words[0] == CODE else ()))


def ecp_standin(root: Path) -> Dataset:
    """Streets of the benchmark's size, in its layout."""
    prepare(Dataset("streets", root, 20, 3, 2, 0), (1024, 1920))
    (root / "streets.json").unlink()
    return Dataset("ecp", root, 20)


@pytest.mark.parametrize(
    ("name", "code", "standin"),
    [
        ("spnet_ecp", "r8d_11121111-21111-112-1111-1111_0-0-2-0-3", ecp_standin),
        (
            "spnetxb_coco",
            "x(4x8d)8_1111-21111-2111111111111111111111111-211-1_1-0-2-1-2",
            lambda root: write_coco(root),
        ),
        ("spnet_voc", "r8_111-2111-211111-211", lambda root: write_voc(root)),
    ],
)
def test_the_published_settings_run(tmp_path: Path, name: str, code: str, standin: Any) -> None:
    """On a few images of the real layout: narrower networks of the published depths, smaller images, fewer
    samples; classes, anchors, optimiser, epochs and steps as shipped."""
    document = yaml.safe_load((configs_folder() / "searches" / f"{name}.yml").read_text())
    dataset = standin(tmp_path / "data")
    plain = {"type": dataset.type, "root": str(dataset.root)}
    document["dataset"] = plain if dataset.min_height_px is None else {**plain, "min_height_px": 20}
    document |= {"input_height": 64, "input_width": 128}
    detector = yaml.safe_load((configs_folder() / "detectors" / f"{document['detector']}.yml").read_text())
    document["detector"] = {**detector, "neck_channels": 8, "roi_channels": 16, "proposals": 20}
    document["training"] |= {
        "workers": 0, "warmup_iterations": 2, "rpn_samples": 16, "roi_samples": 16, "images_per_process": 4,
    }  # fmt: skip
    (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(document))
    found = trained(tmp_path, code, "--config", f"{name}.yml")["fully_trained"]
    epochs = document["training"]["epochs"]
    assert found["iterations"] == -(-epochs * len(list_train(dataset)) // 4)
    assert found["metrics"]["mAP"] is not None
    if dataset.type == "ecp":
        assert "lamr/day_pedestrian_reasonable" in found["metrics"]


def list_train(dataset: Dataset) -> list[Path]:
    from spnas_hw.detection.datasets import image_paths

    return image_paths(dataset, "train")


def test_the_published_settings_are_those_published() -> None:
    """SPNet on EuroCity Persons: 26 epochs, SGD, 0.02 for 8 GPUs of 2 images, steps at 20 and 23, warm-up of
    3,662 iterations, 1920x1024."""
    config = load_search("spnet_ecp")
    training = config.training
    assert training is not None and config.size == (1024, 1920)
    assert (training.epochs, training.decay_epochs, training.warmup_iterations) == (26, (20, 23), 3662)
    assert training.scaled_learning_rate(8) == pytest.approx(0.02) and training.batch(8) == 16
    assert training.scaled_learning_rate(1) == pytest.approx(0.0025)
    assert decode(config.start).deep_stem and config.space.deep_stem
    with pytest.raises(ValueError, match="decay_epochs"):
        replace(training, epochs=12)
