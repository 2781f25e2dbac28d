"""What a search costs besides training: proposals and cost evaluations a second, and their share of a run.

The share is of a miniature search that is made here, or with --run of a finished one. Time the numbers
on a quiet machine. Results go to benchmarks/results/.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from profilers.environment import cpu_name
from spnas_hw import console
from spnas_hw.config import SearchConfig, configs_folder, load_search
from spnas_hw.cost.composition import workloads
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.pricer import Pricer
from spnas_hw.run import JOURNAL, Run
from spnas_hw.search.journal import Trial, read_journal
from spnas_hw.search.serial import SerialSearcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ARCHITECTURES = 1000
HISTORIES = (0, 50, 200)
CANDIDATES = (1, 32)
REPEATS = 5
PRICES_TARGET = 20_000
SHARE_TARGET = 0.01


def main(
    run: Annotated[Path | None, typer.Option(help="Folder of a finished search; default: make one.")] = None,
    samples: Annotated[int, typer.Option(min=2, help="Trials of the search that is made.")] = 4,
    iterations: Annotated[
        int | None, typer.Option(min=30, help="Of a trial; default: as configured.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    share = share_of_run(run) if run is not None else share_of_new_run(samples, iterations)
    speeds = {path.stem: speed(path.stem) for path in sorted((configs_folder() / "spaces").glob("*.yml"))}
    for space, found in speeds.items():
        console.stdout.print(f"{space}: {found}", highlight=False)
    console.stdout.print(str(share), highlight=False)
    slowest = min(found["costs_per_s"] for found in speeds.values())
    targets = {
        f"{slowest:,.0f} cost evaluations a second, at least {PRICES_TARGET:,}": slowest >= PRICES_TARGET,
        f"{share['share_outside_trials']:.3%} of a search is not training or validation, "
        f"below {SHARE_TARGET:.0%}": share["share_outside_trials"] < SHARE_TARGET,
    }
    for target, is_met in targets.items():
        console.stdout.print(f"{'met   ' if is_met else 'MISSED'} {target}", highlight=False)
    document = {"device": cpu_name(), "spaces": speeds, "search": share, "targets": targets}
    results.mkdir(parents=True, exist_ok=True)
    path = results / "search_overhead.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    console.stdout.print(str(path))


def speed(space: str) -> dict[str, Any]:
    """Cost evaluations and proposals a second on one core, in one of the shipped spaces."""
    config = in_space(space)
    rng = np.random.default_rng(0)
    sampled = {encode(found): found for found in (config.space.sample(rng) for _ in range(ARCHITECTURES))}
    architectures = list(sampled.values())
    keys = {load.key for one in architectures for load in workloads(one, config.detector, config.size)}
    price = Pricer(config.detector, config.size, dict.fromkeys(keys, 1.0))

    def price_all() -> None:
        for architecture in architectures:
            price(architecture)

    price_all()  # what a search looks up is soon known
    # MACs only: mutants need workloads that the sampled architectures lack.
    by_macs = Pricer(config.detector, config.size, None)
    budget = Budget(macs=max(by_macs(architecture).macs for architecture in architectures))
    found: dict[str, Any] = {"costs_per_s": round(len(architectures) / _least_seconds(price_all))}
    for candidates in CANDIDATES:
        for trials in HISTORIES:
            searcher = SerialSearcher(
                architectures[0],
                config.space,
                replace(config.serial, candidates=candidates),
                lambda architecture: budget.violations(by_macs(architecture)),
            )
            for index, architecture in enumerate(architectures[:trials]):
                searcher.tell(_trial(index, architecture, float(rng.uniform())))
            seconds = _least_seconds(partial(searcher.ask, rng))
            found[f"proposals_per_s_{candidates}_candidates_{trials}_trials"] = round(1 / seconds, 1)
    return found


def in_space(space: str) -> SearchConfig:
    """The demonstration's configuration in another of the shipped spaces."""
    document = yaml.safe_load((configs_folder() / "searches" / "demo.yml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.yml"
        path.write_text(yaml.safe_dump({**document, "space": space}))
        return load_search(str(path))


def share_of_run(folder: Path) -> dict[str, Any]:
    """The share of a finished search outside its trials: from the first trial's beginning to the last
    one's end. Where it was stopped and resumed, the pause counts, too.

    What belongs to a trial counts as training: building the network, loading data, saving weights.
    """
    _, journalled = read_journal(folder / JOURNAL)
    trials = [trial for trial in journalled if trial.phase == "serial"]
    if len(trials) < 2:
        raise typer.BadParameter(
            f"{folder} has {len(trials)} trials; two are needed to have time between them"
        )
    gaps_s = [after.t_start - before.t_end for before, after in pairwise(trials)]
    total_s = trials[-1].t_end - trials[0].t_start
    return {
        "run": folder.name,
        "trials": len(trials),
        "total_s": round(total_s, 3),
        "share_outside_trials": sum(gaps_s) / total_s,
        "longest_gap_s": round(max(gaps_s), 4),
    }


def share_of_new_run(samples: int, iterations: int | None) -> dict[str, Any]:
    """The same of a search that is made now, on the data and schedule of the tabular benchmark.

    Apart from it: the seconds before the first trial, which imports and resolves, and the share of the
    trials' time until their first iteration is done, which mostly builds networks.
    """
    from spnas_hw.detection.datasets import prepare  # it needs torch, a finished run does not
    from spnas_hw.pipeline.search import search

    config = load_search(str(HERE / "search_quality" / "space.yml"))
    config = replace(config, serial=replace(config.serial, max_sample=samples))
    if iterations is not None:
        schedule = replace(config.schedule, start_iterations=iterations, iterations=iterations)
        config = replace(config, schedule=schedule)
    prepare(config.dataset, config.size)
    folder = Path("build/search_overhead")
    shutil.rmtree(folder, ignore_errors=True)
    first_iterations: dict[int, float] = {}

    def progress(trial_id: int, done: int, total: int) -> None:
        first_iterations.setdefault(trial_id, time.time())

    begin = time.time()
    trials = search(
        Run(folder, config, Budget(), None),
        resume=False,
        progress=progress,
        on_trial=lambda trial: None,
        note=lambda text: None,
    )
    found = share_of_run(folder)
    until_first_s = sum(first_iterations[trial.trial_id] - trial.t_start for trial in trials)
    return {
        **found,
        "start_up_s": round(trials[0].t_start - begin, 3),
        "share_until_first_iterations": until_first_s / found["total_s"],
        "iterations": config.schedule.iterations,
    }


def _least_seconds(call: Callable[[], object]) -> float:
    """Of `REPEATS` calls after a first one: other processes only ever add."""
    call()
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _trial(trial_id: int, architecture: Architecture, mean_ap: float) -> Trial:
    return Trial(
        trial_id=trial_id,
        phase="serial",
        code=encode(architecture),
        parent_id=None,
        parent_code=None,
        operator="seed",
        status="ok",
        metrics={"mAP": mean_ap},
        latency_ms=None,
        latency_source=None,
        memory_mb=0.0,
        macs=0,
        params=0,
        iterations=1,
        t_start=0.0,
        t_end=0.0,
    )


if __name__ == "__main__":
    typer.run(main)
