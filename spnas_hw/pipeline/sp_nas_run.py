"""The run that a `sp_nas.yml` describes: its template, with the settings of its steps."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

from spnas_hw.config import SearchConfig, load_search, overridden
from spnas_hw.errors import InvalidConfig
from spnas_hw.pipeline.sp_nas import Pipeline
from spnas_hw.pipeline.sp_nas_keys import PhaseStep, TrainStep
from spnas_hw.run import Run
from spnas_hw.search.journal import TOTAL_LISTS
from spnas_hw.search.parallel import ParallelSettings
from spnas_hw.search.serial import REIGNITIONS_MAX
from spnas_hw.space.codec import decode, encode


def run_of(pipeline: Pipeline, folder: Path) -> Run:
    """The run of a pipeline file: the search its steps name, with their settings.

    The phases' settings are taken whether their steps are run or not, so that a run may add a step later.

    Raises:
        InvalidConfig: names the file and the step.
        DataError: epochs cannot be counted, since the data is not there.
    """
    _refuse_other_lists(pipeline, folder)
    try:
        config = _config(pipeline)
        if (start := _start(pipeline, folder)) is not None:
            config = replace(config, start=start)
    except ValueError as error:
        raise InvalidConfig(f"{pipeline.file}: {error}") from error
    for step in pipeline.to_run():
        if isinstance(step, TrainStep) and step.trainer.reignition and config.reignition is None:
            raise InvalidConfig(
                f"{pipeline.file}: {step.name}.trainer.regnition needs the key reignition in the template, "
                "which names the images"
            )
    if not decode(config.start).is_serial:
        raise InvalidConfig(f"{pipeline.file}: the start {config.start} has sub-networks: give a serial one")
    return Run(folder, config, pipeline.budget, pipeline.table and pipeline.table.resolve())


def without_effect(pipeline: Pipeline) -> list[str]:
    """What the file asks for and does not get, a line each."""
    worker = pipeline.general.worker
    keys = ["general.worker.timeout"] if worker is not None and worker.timeout is not None else []
    steps = [step for step in pipeline.steps if step.trainer is not None and step.trainer.debug]
    found = [f"{key} has no effect" for key in [*keys, *(f"{step.name}.trainer.debug" for step in steps)]]
    if several := _several_gpus(pipeline):
        found.append(f"{', '.join(several)}: one process trains the candidates, on one GPU")
    return found


def list_path(text: str, folder: Path) -> Path:
    """Where a list of results lies: a mere name, or what the reference's placeholder starts, in `folder`."""
    for start in ("{local_base_path}/output", "{local_base_path}"):
        text = text.replace(start, str(folder))
    path = Path(text)
    return folder / path if len(path.parts) == 1 else path


def best_code(path: Path) -> str:
    """The network of the best mAP in a list of another run. Raises InvalidConfig."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [(float(row["mAP"]), row["arch"]) for row in csv.DictReader(file) if row["mAP"]]
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidConfig(f"{path} is no list of results with the columns arch and mAP: {error}") from error
    if not rows:
        raise InvalidConfig(f"{path} has no row with a mAP")
    return encode(decode(max(rows, key=lambda row: row[0])[1]))


def iterations_of(config: SearchConfig, epochs: int) -> int:
    """Epochs over the training images in iterations of a batch, rounded up. Raises DataError."""
    images = config.dataset.train
    if images is None:
        from spnas_hw.detection.datasets import image_paths

        images = len(image_paths(config.dataset, "train"))
    return math.ceil(epochs * images / config.schedule.batch_size)


def _several_gpus(pipeline: Pipeline) -> list[str]:
    """The keys of the file that ask for more than one GPU where one is used."""
    general, worker = pipeline.general, pipeline.general.worker
    phases = [step for step in pipeline.to_run() if isinstance(step, PhaseStep)]
    asked = {f"{step.name}.trainer.gpus": step.trainer.gpus for step in phases if step.trainer}
    if worker is not None:
        asked["general.worker.gpus_per_job"] = worker.gpus_per_job
        asked["general.worker.devices_per_job"] = worker.devices_per_job
    for key in ("parallel_search", "parallel_fully_train"):
        asked[f"general.{key}"] = 2 if getattr(general, key) else 1
    return [key for key, number in asked.items() if number is not None and number > 1]


def _refuse_other_lists(pipeline: Pipeline, folder: Path) -> None:
    for step in pipeline.to_run():
        if isinstance(step, PhaseStep):
            level, named = step.search_algorithm.sample_level, step.search_algorithm.total_list
            if list_path(named, folder) != folder / TOTAL_LISTS[level]:
                raise InvalidConfig(
                    f"{pipeline.file}: {step.name}.search_algorithm.total_list is {named!r}; the list of the "
                    f"{level} phase is {TOTAL_LISTS[level]!r}, in the run folder"
                )


def _config(pipeline: Pipeline) -> SearchConfig:
    config = overridden(_template(pipeline), max_sample=None, seed=pipeline.seed)
    serial, parallel = pipeline.phase("serial"), pipeline.phase("parallel")
    first = serial or parallel
    if first is not None:
        iterations = iterations_of(config, first.search_space.epoch)
        config = replace(config, schedule=replace(config.schedule, iterations=iterations))
    if serial is not None and serial.search_algorithm.serial_settings is not None:
        algorithm, mutation = serial.search_algorithm, serial.search_algorithm.serial_settings
        settings = replace(
            config.serial,
            max_sample=algorithm.max_sample,
            max_optimal=algorithm.max_optimal,
            num_mutate=mutation.num_mutate,
            expand_prob=mutation.expand_prob,
            add_stage_prob=mutation.add_stage_prob,
            reignitions=REIGNITIONS_MAX if algorithm.reignition else 0,
        )
        low, high = config.space.stages
        space = replace(config.space, stages=(low, min(high, mutation.max_stages)))
        config = replace(config, serial=settings, space=space)
    branching = replace(config.parallel or ParallelSettings(1), own_prob=0.0)  # as the reference
    if parallel is not None and first is not None:
        share = parallel.search_space.epoch / first.search_space.epoch
        branching = replace(branching, max_sample=parallel.search_algorithm.max_sample, share=share)
    return replace(config, parallel=branching)


def _template(pipeline: Pipeline) -> SearchConfig:
    """The search of the steps' template, `x.py` of the reference being `x.yml` here."""
    names = {
        step.name: step.search_space.config_template_file
        if isinstance(step, PhaseStep)
        else step.trainer.config_template
        for step in pipeline.steps
    }
    if len({Path(name) for name in names.values()}) > 1:
        told = ", ".join(f"{step}: {name}" for step, name in names.items())
        raise InvalidConfig(f"{pipeline.file}: the steps of a run share one template, but have {told}")
    path = Path(next(iter(names.values())))
    beside = pipeline.file.parent / path.with_suffix(".yml")
    given = path if path.suffix == ".yml" and path.is_file() else beside
    try:
        return load_search(str(given) if given.is_file() else path.stem)
    except InvalidConfig as error:
        raise InvalidConfig(f"{pipeline.file}: template {str(path)!r}: {error}") from error


def _start(pipeline: Pipeline, folder: Path) -> str | None:
    """The code that an earlier search gives the phases to start from; None: the template's."""
    phases = [step for step in pipeline.to_run() if isinstance(step, PhaseStep)]
    for index, step in enumerate(phases):
        level, result = step.search_algorithm.sample_level, step.search_algorithm.last_search_result
        key = f"{step.name}.search_algorithm.last_search_result"
        if level == "parallel" and index and result is None:
            raise ValueError(f"{key} is missing: name the list of {phases[0].name}")
        if result is None:
            continue
        path = list_path(result, folder)
        if level == "parallel" and path == folder / TOTAL_LISTS["serial"]:
            continue
        if index or path.parent == folder:
            raise ValueError(f"{key} is {result!r}; it must be the list of a serial step before this one")
        try:
            return best_code(path)
        except InvalidConfig as error:
            raise ValueError(f"{key}: {error}") from error
    return None
