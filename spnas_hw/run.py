"""A run: one search in one folder.

The folder holds `journal.jsonl` (the only state), its CSV views, one folder per trial, and what was
derived from it: `baseline/`, `bundle/`, `report.png`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from profilers import nvml
from profilers.environment import cpu_name, package_version
from profilers.table import LatencyTable, Provenance
from spnas_hw import __version__
from spnas_hw.config import SearchConfig, build
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.feasibility import find_feasible
from spnas_hw.cost.pricer import Pricer
from spnas_hw.cost.workload import Size
from spnas_hw.errors import InvalidConfig, MissingWorkload, RunError
from spnas_hw.search.journal import LatencySource, Trial, ranked, read_journal
from spnas_hw.search.remeasured import read_remeasured
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode

JOURNAL = "journal.jsonl"
FULL_TRAINING = "fullytrain"
WEIGHTS = "weights.safetensors"
"""In the folder of a trial."""
BATCH = 1
DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "onnxruntime-cuda": ("onnxruntime-gpu",),
    "onnxruntime-tensorrt": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
    "torch-cuda": ("torch",),
}
"""Packages that bring a runtime; the first that is installed tells its version."""


def read_table(folder: Path, config: SearchConfig) -> LatencyTable:
    """A table of the batch and input size of `config`; its precision is that of all that follows from it.

    Raises:
        InvalidTable, TableMismatch
    """
    table = LatencyTable.read(folder)
    table.require(batch=BATCH, input_height=config.input_height, input_width=config.input_width)
    return table


def find_table(home: Path, size: Size, word: str | None = None) -> Path:
    """The table in `home` to use when none is named: the only one of a device, or of its several the only
    one of the input size.

    Args:
        size: height and width in pixels.
        word: of the device's name, whatever the case; None: any device of this machine.

    Raises:
        InvalidConfig: none, or several; lists what is there.
    """
    folders = sorted(path.parent for path in home.glob("*/provenance.json"))
    devices = [cpu_name(), *(gpu.name for gpu in nvml.devices())] if word is None else [word]
    tables = {folder: LatencyTable.read(folder).provenance for folder in folders}
    found = [
        folder
        for folder, about in tables.items()
        if any(device.lower() in about.device.lower() for device in devices)
    ]
    fitting = [folder for folder in found if _input_size(tables[folder]) == size]
    for only in (found, fitting):
        if len(only) == 1:
            return only[0]
    whose = "this machine" if word is None else repr(word)
    known = ", ".join(str(path) for path in folders) or "none; measure one with spnas-hw profile"
    raise InvalidConfig(
        f"{len(found) or 'no'} latency tables of {whose}: name one with --table; there are: {known}"
    )


def _input_size(about: Provenance) -> Size:
    return about.input_height, about.input_width


def changes_since(table: LatencyTable) -> list[str]:
    """How runtime and driver here differ from those of the table; empty where they are not here."""
    about = table.provenance
    found = []
    version = next(filter(None, map(package_version, DISTRIBUTIONS.get(about.runtime, ()))), None)
    if version is not None and version != about.runtime_version:
        found.append(f"{about.runtime} {about.runtime_version}, here it is {version}")
    measured = about.environment.get("driver_version")
    drivers = {gpu.driver_version for gpu in nvml.devices() if gpu.name == about.device}
    if measured is not None and drivers and measured not in drivers:
        found.append(f"driver {measured}, here it is {', '.join(sorted(drivers))}")
    return found


@dataclass(frozen=True)
class Run:
    """A search in its folder: configuration, budget and table, as its journal's first line has them.

    Without a table nothing is said of latency, and a budget of it cannot be kept.
    """

    folder: Path
    config: SearchConfig
    budget: Budget
    table_folder: Path | None

    def __post_init__(self) -> None:
        if self.budget.latency_ms is not None and self.table_folder is None:
            raise InvalidConfig("a latency budget needs a latency table: name one with --table or --gpu")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run that a folder holds. Raises RunError."""
        header, _ = read_journal(folder / JOURNAL)
        try:
            document = dict(header["config"])
            for phase in ("serial", "parallel"):
                if document.get(phase) is not None:
                    document[phase] = {**document[phase], "max_sample": 1}
            config = build(SearchConfig, document, str(folder / JOURNAL))
            table_folder = header["table_folder"]
            return cls(folder, config, Budget(**header["budget"]), table_folder and Path(table_folder))
        except (KeyError, TypeError, InvalidConfig) as error:
            raise RunError(f"{folder / JOURNAL} was written by another version ({error})") from error

    @cached_property
    def table(self) -> LatencyTable | None:
        return None if self.table_folder is None else read_table(self.table_folder, self.config)

    @property
    def provenance(self) -> Provenance | None:
        """How the table came about."""
        return None if self.table is None else self.table.provenance

    @cached_property
    def predicted_budget(self) -> Budget:
        """The budget for predictions: less the headroom."""
        return self.budget.with_headroom(self.config.headroom)

    @cached_property
    def price(self) -> Pricer:
        """What a whole detector costs, its latency predicted from the table."""
        return Pricer(self.config.detector, self.config.size, self.costs, self.precision)

    @property
    def precision(self) -> str:
        """What the detector computes in: what its table was measured in."""
        return "fp32" if self.provenance is None else self.provenance.precision

    @property
    def latency_source(self) -> LatencySource:
        return "estimated" if self.provenance is not None and self.provenance.estimated else "predicted"

    @cached_property
    def costs(self) -> dict[str, float] | None:
        return None if self.table is None else self.table.costs()

    def header(self) -> dict[str, Any]:
        """What makes this search this one; its number of samples may grow."""
        plain = json.loads(json.dumps(asdict(self.config), default=str))
        for phase in ("serial", "parallel"):
            if plain[phase] is not None:
                del plain[phase]["max_sample"]
        return {
            "format": 2,
            "tool_version": __version__,
            "config": plain,
            "budget": asdict(self.budget),
            "table_folder": self.table_folder and str(self.table_folder),
            "table_reference_ms": None if self.provenance is None else self.provenance.reference_ms,
        }

    def trials(self) -> list[Trial]:
        return read_journal(self.folder / JOURNAL)[1]

    def winner(self) -> Trial:
        """The validated trial of the best mAP; where the best were measured whole, the best of those that are
        within the budget by the clock and still have their weights.

        Raises:
            RunError: there is none.
        """
        validated = ranked(self.trials())
        if not validated:
            other = ": what was trained in it takes --fully-trained" if self.fully_trained() else ""
            raise RunError(f"{self.folder} has no validated trial of a search{other}")
        if not (measured := read_remeasured(self.folder)):
            return validated[0]
        within = {code for code, found in measured.items() if found.status == "ok"}
        for trial in validated:
            if trial.code in within and self.has_weights(trial):
                return trial
        raise RunError(
            f"nothing of {self.folder} that was measured whole is within its budget: search with --remeasure"
        )

    def trial_folder(self, trial: Trial) -> Path:
        """Where a trial of the search has its weights and its log."""
        return self.folder / "trials" / f"{trial.trial_id:04d}"

    def has_weights(self, trial: Trial) -> bool:
        """Whether what a trial of the search trained is still there."""
        return (self.trial_folder(trial) / WEIGHTS).exists()

    def baseline(self) -> Trial | None:
        """The start network trained as long as the winner, or None where it was not."""
        path = self.folder / "baseline" / JOURNAL
        trials = read_journal(path)[1] if path.exists() else []
        enough = self.winner().iterations
        return next((t for t in trials if t.mean_ap is not None and t.iterations >= enough), None)

    def fully_trained(self) -> Trial | None:
        """The network that the last step of a pipeline trained, or None; its weights are in
        `fullytrain/<trial_id>`."""
        path = self.folder / FULL_TRAINING / JOURNAL
        if not path.exists():
            return None
        header, trials = read_journal(path)
        searched = header["from_trial"] is not None  # then the first line is that trial
        return next(iter(ranked(trials[1:] if searched else trials)), None)

    def start(self) -> tuple[Architecture, str | None]:
        """The network that growth starts from, and why if it is not the configured one.

        Raises:
            InfeasibleBudget: no architecture was found within the budget.
        """
        wanted = decode(self.config.start)
        objections = self.objections(wanted) or self.config.space.violations(wanted)
        if not objections:
            return wanted, None
        found = self.smallest()
        why = f"{self.config.start} does not fit ({objections[0]}); starting from {encode(found)}"
        return found, why

    def objections(self, architecture: Architecture) -> tuple[str, ...]:
        """Why an architecture is no candidate: it breaks the budget, or its latency cannot be predicted."""
        try:
            found = self.predicted_budget.violations(self.price(architecture))
        except MissingWorkload as error:
            return (f"unmeasured workload {error.keys[0]}",)
        headroom = self.config.headroom
        less = f", the budget less {headroom:.0%} headroom" if headroom else ""
        return tuple(text + less if text.startswith("latency_ms") else text for text in found)

    def smallest(self) -> Architecture:
        """An architecture within the budget. Raises InfeasibleBudget with the smallest reachable value."""
        config = self.config
        return find_feasible(
            self.budget,
            config.space,
            config.detector,
            config.size,
            self.costs,
            self.precision,
            config.headroom,
        )
