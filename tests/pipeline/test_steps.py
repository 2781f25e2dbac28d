"""A pipeline in miniature: its three steps in one run folder, resumed, and what cannot go on."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from spnas_hw.cli import main
from spnas_hw.config import Dataset
from spnas_hw.errors import InvalidConfig, SpnasError, TrainingError
from spnas_hw.pipeline import full_training, search, start, steps
from spnas_hw.pipeline.sp_nas import load_pipeline
from spnas_hw.run import Run
from spnas_hw.search.loop import Evaluation

from ..miniature import MINIATURE
from .test_sp_nas import DOCUMENT


def write_pipeline(folder: Path, name: str = "mini.yml", **changes: Any) -> None:
    (folder / "tiny.yml").write_text(yaml.safe_dump(MINIATURE))
    document = json.loads(json.dumps(DOCUMENT))
    for phase, count in (("nas1", 2), ("nas2", 1)):
        document[phase]["search_algorithm"]["max_sample"] = count
        document[phase]["search_space"] |= {"config_template_file": "./tiny.py", "epoch": 1}
    document["fullytrain"]["trainer"] |= {"config_template": "./tiny.py", "epoch": 2, "gpus": 1}
    document["fullytrain"]["trainer"] |= changes.pop("trainer", {})
    (folder / name).write_text(yaml.safe_dump({**document, **changes}))


def run(*words: str) -> None:
    main(["run", *words])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of serial search alone, to which the other steps were added on resuming."""
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_pipeline(folder, pipeline=["nas1"])
        with pytest.raises(SystemExit) as done:
            run("mini.yml")
        assert done.value.code in (0, None)
        write_pipeline(folder)
        with pytest.raises(SystemExit) as done:
            run("mini.yml", "--resume")
        assert done.value.code in (0, None)
    return folder


def test_the_run_folder(home: Path) -> None:
    folder = home / "runs" / "mini"
    serial, parallel = rows(folder / "total_list_s.csv"), rows(folder / "total_list_p.csv")
    assert (len(serial), len(parallel)) == (2, 1) and rows(folder / "pareto_front.csv")
    best = max(serial, key=lambda row: float(row["mAP"]))
    assert {row["pre_arch"] for row in parallel} == {best["arch"]}
    logs = sorted(path.parent.name for path in folder.glob("trials/*/train.log"))
    assert logs == ["0000", "0001", "0002"]
    this = Run.open(folder)
    trained, chosen = this.fully_trained(), max(parallel, key=lambda row: float(row["mAP"]))
    assert trained is not None and trained.code == chosen["arch"]
    searched = next(t for t in this.trials() if t.code == trained.code)
    assert trained.iterations == searched.iterations + 2 * 6 / 2
    assert (folder / "fullytrain/0001/weights.safetensors").exists()
    assert "coco/bbox_mAP" in (folder / "fullytrain/0001/train.log").read_text()


def test_resumed_nothing_is_trained_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    before = contents(home / "runs" / "mini")

    def evaluator(*_: object) -> object:
        def evaluate(*_: object) -> Evaluation:
            raise AssertionError("something was trained")

        return evaluate

    monkeypatch.setattr(search, "evaluator", evaluator)
    monkeypatch.setattr(full_training, "evaluator", evaluator)
    with pytest.raises(SystemExit) as done:
        run("mini.yml", "--resume")
    assert done.value.code in (0, None)
    assert contents(home / "runs" / "mini") == before


def test_without_resume_a_run_is_left_alone(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    before = contents(home / "runs" / "mini")
    for words, hint in (
        (["mini.yml"], "--resume"),
        (["mini.yml", "--run", "b", "--resume"], "no search"),
    ):
        with pytest.raises(SystemExit) as done:
            run(*words)
        assert done.value.code == 1 and hint in capsys.readouterr().err
    write_pipeline(home, "other.yml", seed=5)
    with pytest.raises(SystemExit):
        run("other.yml", "--run", "runs/mini", "--resume")
    assert "another config" in capsys.readouterr().err
    assert contents(home / "runs" / "mini") == before


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Run:
    """The run after its search, to train fully."""
    shutil.copytree(home / "runs" / "mini", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "fullytrain")
    return Run.open(tmp_path / "run")


def trainer_of(home: Path, **changes: Any) -> Any:
    write_pipeline(home, "trainer.yml", trainer=changes)
    return load_pipeline(str(home / "trainer.yml")).to_run()[-1].trainer


def fake(mean_ap: float | None, asked: list[Any]) -> Any:
    def evaluator(run: Run, plan: Any, folder: Path, progress: object) -> Any:
        def evaluate(proposal: Any, trial_id: int, parent_id: int | None) -> Evaluation:
            asked.append((proposal, trial_id, parent_id, plan.training.epochs))
            if mean_ap is None:
                raise TrainingError("it fell over")
            return Evaluation({"mAP": mean_ap}, 6)

        return evaluate

    return evaluator


def trained(run: Run, trainer: Any, notes: list[str]) -> Any:
    planned = steps.planned(run, trainer, notes.append)
    return full_training.fully_train(run, planned, progress=lambda *_: None, on_trial=lambda _: None)


def test_a_code_that_was_not_searched_is_trained_from_nothing(
    home: Path, copied: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    notes: list[str] = []
    monkeypatch.setattr(full_training, "evaluator", fake(0.4, asked))
    trainer = trainer_of(home, model_desc="b4_111111-2", model_desc_file=None)
    found = trained(copied, trainer, notes)
    assert (found.code, found.mean_ap, found.parent_id) == ("b4_111111-2_0-0", 0.4, None)
    assert asked[0][1:] == (0, None, 2) and "from nothing" in notes[0]
    assert copied.fully_trained() == found
    assert trained(copied, trainer, notes) == found and len(asked) == 1


def test_fewer_gpus_than_asked_for_are_told(home: Path, copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for here, processes in ((0, 1), (2, 2), (8, 4)):
        monkeypatch.setattr("spnas_hw.detection.training.visible_gpus", lambda here=here: here)
        notes: list[str] = []
        planned = steps.planned(copied, trainer_of(home, gpus=4), notes.append)
        assert planned.processes == processes
        assert [f"{here} are here" in note for note in notes] == ([True] if here < 4 else [])


def test_a_failed_full_training_is_no_trial(home: Path, copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    trainer = trainer_of(home, model_desc_file="total_list_s.csv")
    monkeypatch.setattr(full_training, "evaluator", fake(None, asked))
    with pytest.raises(SpnasError, match="it fell over"):
        trained(copied, trainer, [])
    assert copied.fully_trained() is None
    monkeypatch.setattr(full_training, "evaluator", fake(0.2, asked))
    assert trained(copied, trainer, []).mean_ap == 0.2
    assert [(trial_id, parent) for _, trial_id, parent, _ in asked] == [(1, 0)] * 2


def test_a_step_without_what_it_builds_on(home: Path, copied: Run) -> None:
    with pytest.raises(SpnasError, match="reignite"):
        trained(copied, trainer_of(home, model_desc="b4_11111-2", model_desc_file=None, regnition=True), [])
    header = (copied.folder / "journal.jsonl").read_text().splitlines()[0]
    (copied.folder / "journal.jsonl").write_text(header + "\n")
    with pytest.raises(SpnasError, match="run the parallel step first"):
        trained(copied, trainer_of(home), [])


def test_a_parallel_step_alone_leaves_no_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a journal would refuse the next attempt."""
    monkeypatch.chdir(home)
    write_pipeline(home, "alone.yml", pipeline=["nas2"])
    for _ in range(2):
        with pytest.raises(SystemExit):
            run("alone.yml")
        assert "nas2 needs runs/alone/total_list_s.csv: run the serial step first" in capsys.readouterr().err
    assert not (home / "runs/alone").exists()


def test_other_classes_than_those_of_the_data_are_refused(copied: Run) -> None:
    with pytest.raises(InvalidConfig, match=r"class 0 .* 'pedestrian', in voc data it is 'aeroplane'"):
        voc = replace(copied.config, dataset=Dataset("voc", Path("x")))
        start.check(replace(copied, config=voc), True, ["serial"])
