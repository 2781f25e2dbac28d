"""What sub-networks that share a stage's weights should share of its batch normalisation.

Three ways: everything, as SPNet does; the parameters but not the statistics; or nothing. Each trains the same
parallel networks from nothing, several seeds. Stopped, it goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from inheritance import CONFIG, HERE, PACKAGES, Book
from mmdet.registry import MODELS
from mmengine.model import constant_init
from rich.table import Table
from torch import Tensor, nn

from profilers.environment import cpu_name, package_version
from spnas_hw import console
from spnas_hw.config import load_search
from spnas_hw.detection.backbone import OUTER_GAMMA, SPNet
from spnas_hw.detection.datasets import prepare
from spnas_hw.detection.evaluator import ShortTraining
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

RESULT = HERE / "results" / "branch_norms.json"
WORK = Path("build/branch_norms")
CODES = ("b16_11-2-2_1-1-1", "b16_11-2-2_0-2-1", "b16_11-2-2_2-0-2")


class Norm(nn.BatchNorm2d):
    """Of convolutions that run `passes` times in one forward: a norm for each; the last pass has this one."""

    own_parameters = True

    def __init__(self, features: int, passes: int) -> None:
        super().__init__(features)
        self.passes = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(passes - 1))
        self.turn = 0

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn
        self.turn = (turn + 1) % (1 + len(self.passes))
        if turn == len(self.passes):
            return super().forward(x)
        norm = self.passes[turn]
        if self.own_parameters:
            return norm(x)
        statistics = norm.running_mean, norm.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum, self.eps)


class OwnStatistics(Norm):
    own_parameters = False


class Apart(SPNet):
    """SPNet, but every pass through a shared stage or connection has a norm of its own."""

    norm: type[Norm] = Norm

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for index, stage in enumerate(self.architecture.stages):
            if stage.branches and not stage.own_weights:
                self._part(getattr(self, f"layer{index + 1}"), 1 + stage.branches)
                self._part(getattr(self, f"connection{index + 1}"), stage.branches)

    def _part(self, module: nn.Module, passes: int) -> None:
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is nn.BatchNorm2d:
                    setattr(parent, name, self.norm(child.num_features, passes))

    def init_weights(self) -> None:
        super().init_weights()
        for index in range(len(self.architecture.stages)):
            for norm in getattr(getattr(self, f"connection{index + 1}", [None, None])[1], "passes", ()):
                constant_init(norm, OUTER_GAMMA)


class ApartStatistics(Apart):
    norm = OwnStatistics


WAYS: dict[str, type[SPNet]] = {"all shared": SPNet, "own statistics": ApartStatistics, "own norms": Apart}


@contextmanager
def backbone(kind: type[SPNet]) -> Iterator[None]:
    """Detectors built inside have this backbone."""
    MODELS.register_module(name="SPNet", module=kind, force=True)
    try:
        yield
    finally:
        MODELS.register_module(name="SPNet", module=SPNet, force=True)


def main(
    seeds: Annotated[int, typer.Option(min=2)] = 3,
    iterations: Annotated[int, typer.Option(min=30)] = 1500,
    only: Annotated[str | None, typer.Option(help="One of the ways, to share the work.")] = None,
) -> None:
    torch.set_num_threads(1)
    config = load_search(str(CONFIG))
    prepare(config.dataset, config.size)
    rows = []
    for way, kind in WAYS.items():
        folder = WORK / f"{way.replace(' ', '_')}-{iterations}"
        folder.mkdir(parents=True, exist_ok=True)
        training = ShortTraining(folder, config.detector, config.dataset, config.schedule, config.size, 0)
        book = Book(training, folder / "results.jsonl", config.schedule)
        if only in (None, way):
            with backbone(kind):
                for code in CODES:
                    for seed in range(seeds):
                        book.train(f"{code} {seed}", unchanged(decode(code)), None, iterations)
        rows += [
            {"norms": way, "code": code, "mAP": [m for name, m in book.found.items() if code in name]}
            for code in CODES
        ]
    if only is not None:
        return
    _report(rows)
    about = {
        "date": date.today().isoformat(),
        "device": cpu_name(),
        "packages": {package: package_version(package) for package in PACKAGES},
        "config": CONFIG.relative_to(HERE).as_posix(),
        "schedule": asdict(replace(config.schedule, start_iterations=iterations)),
    }
    RESULT.write_text(json.dumps({"provenance": about, "trained": rows}, indent=1) + "\n")


def _report(rows: list[dict[str, Any]]) -> None:
    table = Table("norms", *CODES, "mean", title="mAP, mean and deviation over seeds")
    for way in WAYS:
        found = [row["mAP"] for row in rows if row["norms"] == way]
        shown = [f"{mean(values):.3f} ±{stdev(values):.3f}" for values in found]
        table.add_row(way, *shown, f"{mean(map(mean, found)):.3f}")
    console.stdout.print(table)


if __name__ == "__main__":
    typer.run(main)
