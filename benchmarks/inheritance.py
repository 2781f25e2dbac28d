"""What inheriting weights is worth: children of grown networks, with inheritance and from scratch.

Parents are a start network and its descendants. Each child is trained from scratch for the whole start
schedule and for the short one, and with what it inherits for several lengths up to the short one. Every
length is a training of its own from the parent's weights, with its whole warm-up and decay, as a search does
it. The parent's training is not counted. The first length that reaches the mark counts; mAP is noisy, by
about 0.01, and several looks favour inheritance a little. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from rich.table import Table

from profilers.environment import cpu_name, package_version
from spnas_hw import console
from spnas_hw.config import load_search
from spnas_hw.detection.datasets import prepare
from spnas_hw.detection.evaluator import ShortTraining
from spnas_hw.schedule import Schedule
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.morphism import Morphism, add_stage, expand, swap, unchanged, widen

HERE = Path(__file__).parent
RESULT = HERE / "results" / "inheritance.json"
WORK = Path("build/inheritance")
CONFIG = HERE / "search_quality" / "space.yml"
START = "b16_11-2-2"
STEPS = (25, 50, 100, 200)
"""Lengths of the trainings of a child that inherits; the last is the short schedule."""
LEARNING_RATE = 0.0005
TARGET = 5.0
PACKAGES = ("torch", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine")


@dataclass
class Book:
    """Every training that was done, by name; a name has its folder of weights."""

    training: ShortTraining
    path: Path
    schedule: Schedule

    def __post_init__(self) -> None:
        text = self.path.read_text() if self.path.exists() else ""
        lines = [line for line in text.splitlines() if line.endswith("}")]  # not what a kill tore off
        self.path.write_text("".join(f"{line}\n" for line in lines))
        self.names: list[str] = [json.loads(line)["name"] for line in lines]
        self.found: dict[str, float] = {row["name"]: row["mAP"] for row in map(json.loads, lines)}

    def train(self, name: str, morphism: Morphism, parent: str | None, iterations: int) -> float:
        """mAP after so many iterations, with what `parent` hands on."""
        if name in self.found:
            return self.found[name]
        schedule = replace(
            self.schedule,
            start_iterations=iterations,
            iterations=iterations,
            warmup_iterations=min(20, iterations // 5),
            learning_rate=LEARNING_RATE,
        )
        parent_id = None if parent is None else self.names.index(parent)
        result = replace(self.training, schedule=schedule)(Proposal(morphism), len(self.names), parent_id)
        self.names.append(name)
        self.found[name] = float(result.metrics["mAP"] or 0.0)
        with open(self.path, "a") as file:
            file.write(json.dumps({"name": name, "mAP": self.found[name]}) + "\n")
        console.stderr.print(f"{name}  mAP {self.found[name]:.4f}", highlight=False)
        return self.found[name]


def main(
    parents: Annotated[int, typer.Option(min=1, help="Generations of parents.")] = 3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    shorten: Annotated[int, typer.Option(min=1, help="Divide all iterations, to try it out.")] = 1,
) -> None:
    torch.set_num_threads(1)
    config = load_search(str(CONFIG))
    prepare(config.dataset, config.size)
    folder = WORK / f"{seed}-{shorten}"
    folder.mkdir(parents=True, exist_ok=True)
    training = ShortTraining(folder, config.detector, config.dataset, config.schedule, config.size, seed)
    book = Book(training, folder / "results.jsonl", config.schedule)
    full = config.schedule.start_iterations // shorten
    steps = tuple(sorted({max(10, step // shorten) for step in STEPS}))
    rng = np.random.default_rng(seed)
    parent, name = decode(START), "parent 0"
    book.train(name, unchanged(parent), None, full)
    rows = []
    for generation in range(parents):
        children = _children(parent, rng)
        rows += [_child(book, f"{name} {m.operator}", name, m, full, steps) for m in children]
        following = expand(parent, rng)
        parent, name, before = following.child, f"parent {generation + 1}", name
        if generation + 1 < parents:
            book.train(name, following, before, steps[-1])
    _report(rows, full, steps)
    about = {
        "date": date.today().isoformat(),
        "device": cpu_name(),
        "threads": 1,
        "packages": {package: package_version(package) for package in PACKAGES},
        "seed": seed,
        "config": CONFIG.relative_to(HERE).as_posix(),
        "start": START,
        "schedule": asdict(config.schedule),
        "input": config.size,
        "inherited_learning_rate": LEARNING_RATE,
    }
    if shorten == 1:
        RESULT.write_text(json.dumps({"provenance": about, "children": rows}, indent=1) + "\n")
        console.stdout.print(str(RESULT))


def _children(parent: Architecture, rng: np.random.Generator) -> list[Morphism]:
    return [expand(parent, rng), swap(parent, rng), add_stage(parent), widen(parent, rng)]


def _child(
    book: Book, name: str, parent: str, morphism: Morphism, full: int, steps: tuple[int, ...]
) -> dict[str, object]:
    """One child, three ways."""
    child = unchanged(morphism.child)
    scratch_full = book.train(f"{name} scratch {full}", child, None, full)
    scratch_short = book.train(f"{name} scratch {steps[-1]}", child, None, steps[-1])
    inherited = {step: book.train(f"{name} inherited {step}", morphism, parent, step) for step in steps}
    reached = next((step for step, value in inherited.items() if value >= scratch_full), None)
    return {
        "operator": morphism.operator,
        "parent": encode(morphism.parent),
        "parent_mAP": book.found[parent],
        "child": encode(morphism.child),
        "scratch_full": scratch_full,
        "scratch_short": scratch_short,
        "inherited": inherited,
        "reached_after": reached,
        "times_fewer": None if reached is None else full / reached,
    }


def _report(rows: list[dict[str, object]], full: int, steps: tuple[int, ...]) -> None:
    columns = ("child", "by", f"scratch {full}", f"scratch {steps[-1]}", *(f"inherited {s}" for s in steps))
    table = Table(*columns, "times fewer", title="mAP after so many iterations")
    for row in rows:
        inherited = row["inherited"]
        assert isinstance(inherited, dict)
        fewer = row["times_fewer"]
        values = (row["scratch_full"], row["scratch_short"], *inherited.values())
        shown = "not reached" if fewer is None else f">= {fewer:.0f}"
        table.add_row(str(row["child"]), str(row["operator"]), *(f"{v:.3f}" for v in values), shown)
    console.stdout.print(table)
    for operator in dict.fromkeys(str(row["operator"]) for row in rows):
        of_it = [float(str(row["times_fewer"] or 0)) for row in rows if row["operator"] == operator]
        console.stdout.print(f"{operator}: median {median(of_it):.1f} times fewer", highlight=False)
    fewer = [float(str(row["times_fewer"] or 0)) for row in rows]
    word = "met   " if median(fewer) >= TARGET else "MISSED"
    console.stdout.print(
        f"{word} at least {TARGET:g} times fewer iterations to the scratch child's final mAP: median "
        f"{median(fewer):.1f}, reached by {sum(value > 0 for value in fewer)} of {len(rows)} children",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
