"""Trains and validates every architecture of a tabular benchmark once, the cheapest first.

Shards share the work among processes or machines, each with a file of its own; a stopped shard goes on
where it was. `--collect` joins what there is into the table: as far as it is without a gap, since only
then a MACs budget means the same for every strategy. More time, or a GPU, makes the benchmark larger.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, get_args

import pandas
import torch
import typer
from tabular import Tabular

from profilers.environment import cpu_name, package_version
from spnas_hw.config import SearchConfig
from spnas_hw.detection.datasets import prepare
from spnas_hw.detection.evaluator import ShortTraining
from spnas_hw.search.journal import Phase
from spnas_hw.search.proposal import Proposal
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import unchanged

WORK = Path("build/search_quality")
PACKAGES = ("torch", "onedl-mmdetection", "onedl-mmcv", "onedl-mmengine", "faster-coco-eval")


def main(
    phase: Annotated[str, typer.Option(help="Which benchmark, serial or parallel.")] = "serial",
    shard: Annotated[str, typer.Option(help="Which of how many, e.g. 0/8.")] = "0/1",
    count: Annotated[int | None, typer.Option(min=1, help="The cheapest so many; default: all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another one measures the noise of a training.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Train only every so manieth.")] = 1,
    collect: Annotated[bool, typer.Option("--collect", help="Join the shards into the table.")] = False,
) -> None:
    if phase not in get_args(Phase):
        raise typer.BadParameter(f"{phase!r} is neither serial nor parallel")
    tabular = Tabular(phase)
    config = tabular.configuration()
    if collect:
        print(f"{tabular.table}: {_collect(tabular)} architectures")
        return
    torch.set_num_threads(1)
    prepare(config.dataset, config.size)
    index, _, shards = shard.partition("/")
    path = WORK / f"{phase}-{seed}-{index}-of-{shards}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {row["arch"] for row in _rows(tabular) if row["seed"] == seed}
    folder = WORK / path.stem
    training = ShortTraining(folder, config.detector, config.dataset, config.schedule, config.size, seed)
    for _, code in tabular.cheapest_first()[:count:every][int(index) :: int(shards)]:
        if code in done:
            continue
        begin = time.perf_counter()
        found = training(Proposal(unchanged(decode(code))), 0, None)
        row = {"arch": code, "seed": seed, "seconds": round(time.perf_counter() - begin, 2), **found.metrics}
        with open(path, "a") as file:
            file.write(json.dumps({"trained": _trained(config), **row}) + "\n")
        print(row["arch"], row["mAP"], row["seconds"], flush=True)
    shutil.rmtree(folder, ignore_errors=True)


def _trained(config: SearchConfig) -> dict[str, Any]:
    """What a metric depends on, besides the architecture."""
    about = {"detector": asdict(config.detector), "dataset": asdict(config.dataset), "size": config.size}
    document: dict[str, Any] = json.loads(
        json.dumps({**about, "schedule": asdict(config.schedule)}, default=str)
    )
    return document


def _rows(tabular: Tabular) -> list[dict[str, Any]]:
    """All that was trained with this configuration, in any shard; a torn last line is left out."""
    paths = sorted(WORK.glob(f"{tabular.phase}-*.jsonl"))
    lines = [line for path in paths for line in path.read_text().splitlines()]
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in rows if row.pop("trained") == _trained(tabular.configuration())]


def _collect(tabular: Tabular) -> int:
    rows = pandas.DataFrame(_rows(tabular)).drop_duplicates(["arch", "seed"])
    ranked = tabular.cheapest_first()
    known = set(rows.loc[rows.seed == 0, "arch"])
    complete = next((i for i, (_, code) in enumerate(ranked) if code not in known), len(ranked))
    macs = {code: value for value, code in ranked[:complete]}
    kept = rows[rows.arch.isin(macs)].assign(macs=rows.arch.map(macs))
    metrics = ["mAP", "AP50", "AP_small", "AP_medium", "AP_large"]
    kept = kept.sort_values(["seed", "macs", "arch"])[["arch", "seed", "macs", *metrics, "seconds"]]
    kept.round(5).to_csv(tabular.table, index=False)
    packages = {name: package_version(name) for name in PACKAGES}
    about = {**_trained(tabular.configuration()), "device": cpu_name(), "threads": 1, "packages": packages}
    about |= {"architectures": complete, "of": len(ranked), "hours": round(rows.seconds.sum() / 3600, 2)}
    tabular.provenance.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return complete


if __name__ == "__main__":
    typer.run(main)
