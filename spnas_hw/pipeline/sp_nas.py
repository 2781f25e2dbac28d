"""Reads a `sp_nas.yml` in the layout and with the keys of the reference, strictly.

    general: {...}                        # tolerated; what has no effect here is said
    pipeline: [nas1, nas2, fullytrain]    # the steps to run, in this order
    nas1: {pipe_step: {type: SpNasPipeStep}, search_algorithm: {...}, search_space: {...}}
    fullytrain: {pipe_step: {type: FullyTrainPipeStep}, trainer: {...}}

Ours are `budget`, `table` and `seed`. The reference's spellings (`regnition`, `expend_ratio`, ...) and the
corrected ones mean the same.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from spnas_hw.config import build, find_config, read_yaml
from spnas_hw.cost.constraints import Budget
from spnas_hw.errors import InvalidConfig
from spnas_hw.pipeline.sp_nas_keys import KINDS, SPELLINGS, TOP_LEVEL, General, PhaseStep, PipeStep, Step
from spnas_hw.search.journal import Phase


@dataclass(frozen=True)
class Pipeline:
    """A pipeline file. `order` names the steps to run; `steps` are all that the file has."""

    file: Path
    general: General
    order: tuple[str, ...]
    steps: tuple[Step, ...]
    budget: Budget
    table: Path | None
    seed: int | None

    def phase(self, level: Phase) -> PhaseStep | None:
        """The step of a phase, whether it is run or not."""
        for step in self.steps:
            if isinstance(step, PhaseStep) and step.search_algorithm.sample_level == level:
                return step
        return None

    def phases(self) -> list[Phase]:
        """Of the steps that are run."""
        steps = [step for step in self.to_run() if isinstance(step, PhaseStep)]
        return [step.search_algorithm.sample_level for step in steps]

    def to_run(self) -> list[Step]:
        by_name = {step.name: step for step in self.steps}
        return [by_name[name] for name in self.order]


def load_pipeline(name: str) -> Pipeline:
    """The pipeline of a file, or of a name in `configs/searches`.

    Raises:
        InvalidConfig: names the file, the key with its path, and what is wrong with it.
    """
    path = find_config(name, "searches")
    document = read_yaml(path)
    if "pipeline" not in document and "schedule" in document:
        raise InvalidConfig(f"{path} is a search, not a pipeline: give it to spnas-hw search --config")
    order = _order(document, path)
    names = [key for key, value in document.items() if key in order or _has_step(key, value)]
    for key in document:
        if key not in TOP_LEVEL and key not in names:
            raise InvalidConfig(f"{path}: unknown key {key}; {_nearest(str(key), [*TOP_LEVEL, *order])}")
    if absent := [key for key in order if key not in names]:
        raise InvalidConfig(
            f"{path}: pipeline names {absent[0]}, which is no step; {_nearest(absent[0], names)}"
        )
    steps = tuple(_step(str(key), document[key], path) for key in names)
    _refuse_repeated(steps, path)
    table, seed = document.get("table"), document.get("seed")
    if table is not None and not isinstance(table, str):
        raise InvalidConfig(f"{path}: table is {table!r}; it is the folder of a latency table")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise InvalidConfig(f"{path}: seed is {seed!r}; it must be a whole number, at least 0")
    budget = _built(Budget, document.get("budget") or {}, path, "budget")
    if budget.latency_ms is not None and table is None:
        raise InvalidConfig(f"{path}: budget.latency_ms needs a latency table: name its folder under table")
    general = _built(General, document.get("general") or {}, path, "general")
    return Pipeline(path, general, tuple(order), steps, budget, table and Path(table), seed)


def _order(document: dict[str, Any], path: Path) -> list[str]:
    if "pipeline" not in document:
        near = next((key for key in document if difflib.get_close_matches(str(key), ["pipeline"])), None)
        found = f"unknown key {near}; did you mean pipeline?" if near else "it has no key pipeline"
        raise InvalidConfig(f"{path}: {found}")
    order = document["pipeline"]
    if not isinstance(order, list) or not order or not all(isinstance(name, str) for name in order):
        raise InvalidConfig(f"{path}: pipeline must list the names of steps, at least one")
    if len(set(order)) != len(order):
        raise InvalidConfig(f"{path}: pipeline names a step twice: {', '.join(order)}")
    return order


def _has_step(key: object, value: Any) -> bool:
    return key not in TOP_LEVEL and isinstance(value, dict) and "pipe_step" in value


def _step(name: str, document: Any, path: Path) -> Step:
    if not isinstance(document, dict):
        raise InvalidConfig(f"{path}: {name} must hold the keys of a step")
    document = dict(document)
    if "pipe_step" not in document:
        for key in document:
            if near := difflib.get_close_matches(str(key), ["pipe_step"]):
                raise InvalidConfig(f"{path}: unknown key {name}.{key}; did you mean {near[0]}?")
        raise InvalidConfig(f"{path}: {name} has no key pipe_step, which says what kind of step it is")
    kind = KINDS[_built(PipeStep, document.pop("pipe_step"), path, f"{name}.pipe_step").type]
    if "name" in document:
        raise InvalidConfig(f"{path}: unknown key {name}.name; {_nearest('name', _spelt(kind))}")
    return _built(kind, {**document, "name": name}, path, name)


def _refuse_repeated(steps: tuple[Step, ...], path: Path) -> None:
    roles: dict[str, str] = {}
    for step in steps:
        role = step.search_algorithm.sample_level if isinstance(step, PhaseStep) else "full training"
        if role in roles:
            raise InvalidConfig(
                f"{path}: {roles[role]} and {step.name} are both {role}: a run has one; use a file for each"
            )
        roles[role] = step.name


def _built(kind: Any, document: Any, path: Path, where: str) -> Any:
    if not isinstance(document, dict):
        raise InvalidConfig(f"{path}: {where} must hold keys and values, not {document!r:.40}")
    return build(kind, _respelt(kind, document, path, where), f"{path}: {where}")


def _respelt(kind: Any, document: dict[Any, Any], path: Path, where: str) -> dict[str, Any]:
    """The document under our spellings. Raises InvalidConfig for a key that is unknown or given twice."""
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for key, value in document.items():
        ours = SPELLINGS.get(key, key)
        if ours not in hints:
            raise InvalidConfig(f"{path}: unknown key {where}.{key}; {_nearest(str(key), _spelt(kind))}")
        if ours in found:
            raise InvalidConfig(f"{path}: {where}.{key} is given twice, under two spellings: leave one out")
        inner = next(filter(is_dataclass, (hints[ours], *get_args(hints[ours]))), None)
        if inner is not None and isinstance(value, dict):
            value = _respelt(inner, value, path, f"{where}.{key}")
        found[ours] = value
    return found


def _spelt(kind: Any) -> list[str]:
    """Every spelling of the keys of `kind`; a step's name is the key it stands under."""
    ours = ["pipe_step" if field.name == "name" else field.name for field in fields(kind)]
    return [*ours, *(other for other, name in SPELLINGS.items() if name in ours)]


def _nearest(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1, 0.0)
    return f"did you mean {near[0]}?" if near else "there are no other keys"
