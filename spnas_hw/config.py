"""Strict YAML -> frozen dataclasses. An unknown key raises and names the nearest known one.

A search file (`configs/searches/*.yml`) names its space, detector and dataset by file, relative to the
`configs` folder, or writes them out in place.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from spnas_hw.cost.workload import Size
from spnas_hw.errors import InvalidArchitecture, InvalidConfig
from spnas_hw.schedule import Reignition, Schedule, Training, require_positive
from spnas_hw.search.journal import Phase
from spnas_hw.search.parallel import ParallelSettings
from spnas_hw.search.serial import SerialSettings
from spnas_hw.space.codec import block_from_code, decode
from spnas_hw.space.detector import Detector
from spnas_hw.space.search_space import SearchSpace

T = TypeVar("T")


@dataclass(frozen=True)
class Dataset:
    """Images and labels, as downloaded into `root`: `coco` (2017), `voc` (07+12), `ecp` (EuroCity Persons).

    `streets` are the synthetic streets in the layout of `ecp`, rendered on first use with `train` and `val`
    images from `seed`. Persons of these two below `min_height_px` are ignored, in training and in COCO's
    metric alike.
    """

    type: Literal["ecp", "streets", "coco", "voc"]
    root: Path
    min_height_px: float | None = None
    train: int | None = None
    val: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "train", "val")
        given = [self.train is not None, self.val is not None, self.seed is not None]
        if self.type == "streets" and not all(given):
            raise ValueError("synthetic streets need train, val and seed")
        if self.type != "streets" and any(given):
            raise ValueError("train, val and seed only belong to synthetic streets")
        persons = self.type in ("ecp", "streets")
        if persons and (self.min_height_px is None or not 0 <= self.min_height_px < math.inf):
            raise ValueError(f"min_height_px is {self.min_height_px}; {self.type} data needs it, at least 0")
        if not persons and self.min_height_px is not None:
            raise ValueError(f"min_height_px only belongs to persons (ecp, streets), not to {self.type} data")


@dataclass(frozen=True)
class SearchConfig:
    """Everything that defines a search but the budget and the latency table.

    `headroom` is the share of a latency budget that predictions leave free, since a prediction errs.
    """

    space: SearchSpace
    detector: Detector
    dataset: Dataset
    input_height: int
    input_width: int
    start: str
    schedule: Schedule
    serial: SerialSettings
    headroom: float
    seed: int
    parallel: ParallelSettings | None = None
    reignition: Reignition | None = None
    training: Training | None = None

    def __post_init__(self) -> None:
        decode(self.start)
        if self.serial.reignitions and self.reignition is None:
            raise ValueError("serial.reignitions needs the images and schedule under the key reignition")
        require_positive(self, "input_height", "input_width")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; it must be at least 0")
        if self.input_height % 32 or self.input_width % 32:
            raise ValueError(f"input {self.input_height}x{self.input_width} must be a multiple of 32")
        if not 0 <= self.headroom < 1:
            raise ValueError(f"headroom is {self.headroom}; it must be at least 0 and below 1")

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        return self.input_height, self.input_width


def configs_folder() -> Path:
    """The folder of the shipped configurations, in a checkout or installed."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def load_search(name: str) -> SearchConfig:
    """The search configuration of a path, or of a name in `configs/searches`.

    Raises:
        InvalidConfig: missing file, unknown key, wrong value.
    """
    document = read_yaml(find_config(name, "searches"))
    if "pipeline" in document:
        raise InvalidConfig(f"{name} holds the steps of a pipeline, not a search: give it to spnas-hw run")
    for key, folder in (("space", "spaces"), ("detector", "detectors"), ("dataset", "datasets")):
        if isinstance(document.get(key), str):
            document[key] = read_yaml(find_config(document[key], folder))
    return build(SearchConfig, document, name)


def overridden(
    config: SearchConfig,
    *,
    max_sample: int | None,
    seed: int | None,
    start: str | None = None,
    phases: Sequence[Phase] = ("serial",),
) -> SearchConfig:
    """`config` with what the command line gave in its place; None leaves it. `max_sample` is per phase."""
    root = config.dataset.root.resolve()  # a run is used from other folders, too
    config = replace(config, dataset=replace(config.dataset, root=root))
    if max_sample is not None and "serial" in phases:
        config = replace(config, serial=replace(config.serial, max_sample=max_sample))
    if max_sample is not None and "parallel" in phases:
        settings = config.parallel or ParallelSettings(max_sample)
        config = replace(config, parallel=replace(settings, max_sample=max_sample))
    config = config if start is None else replace(config, start=start)
    return config if seed is None else replace(config, seed=seed)


def build(kind: type[T], document: dict[str, Any], source: str) -> T:
    """A value of the frozen dataclass `kind` from plain data; `source` names it in errors."""
    _refuse_unknown(kind, document, source)
    try:
        document = _with_blocks(document)
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidConfig(f"{source}: {where}: {message} (got {_short(first['input'])})") from error
    except InvalidArchitecture as error:
        raise InvalidConfig(f"{source}: {error}") from error


def fingerprint(value: Any) -> str:
    """A short hash of a dataclass value, the same in every process."""
    text = json.dumps(asdict(value), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def find_config(name: str, folder: str) -> Path:
    """The file of a path, or of a name in a folder of `configs`. Raises InvalidConfig with what there is."""
    shipped = configs_folder() / folder
    for path in (Path(name), shipped / name, shipped / f"{name}.yml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in shipped.glob("*.yml")))
    raise InvalidConfig(f"no configuration {name!r}: give a file, or one of {known}")


class _Strict(yaml.SafeLoader):
    """A key that stands twice raises; YAML's own loader keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, (key, (at, _)) in enumerate(zip(keys, node.value, strict=True)):
            if key in keys[:index]:
                raise yaml.YAMLError(f"the key {key!r} stands there twice, in line {at.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a file. Raises InvalidConfig."""
    try:
        document = yaml.load(path.read_text(), _Strict)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).replace("\n", " ")
        raise InvalidConfig(f"{path} is no YAML: {line}") from error
    if not isinstance(document, dict):
        raise InvalidConfig(f"{path} must hold keys and values, not {_short(document)}")
    return document


def _refuse_unknown(kind: Any, document: Any, source: str, prefix: str = "") -> None:
    if not (is_dataclass(kind) and isinstance(document, dict)):
        return
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]
    for key, value in document.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.0)
            raise InvalidConfig(f"{source}: unknown key {prefix}{key!s}; did you mean {near[0]}?")
        for part in (hints[key], *get_args(hints[key])):
            _refuse_unknown(part, value, source, f"{prefix}{key}.")


def _with_blocks(document: dict[str, Any]) -> dict[str, Any]:
    """Block types are written as in arch codes: `b`, `r`, `x(32x4d)`."""
    space = document.get("space")
    holder = space if isinstance(space, dict) else document
    if isinstance(holder.get("blocks"), list):
        blocks = [block_from_code(b) if isinstance(b, str) else b for b in holder["blocks"]]
        holder = {**holder, "blocks": blocks}
        return {**document, "space": holder} if isinstance(space, dict) else holder
    return document


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
