"""`spnas-hw train`: full training of one network."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from spnas_hw import console
from spnas_hw.config import SearchConfig, load_search, overridden
from spnas_hw.cost.constraints import Budget
from spnas_hw.errors import InvalidConfig
from spnas_hw.run import JOURNAL, Run
from spnas_hw.search.journal import Journal, Trial
from spnas_hw.space.codec import decode, encode

train_app = typer.Typer()


@train_app.command()
def train(
    network: Annotated[
        str,
        typer.Argument(
            help="An architecture code, a run folder (its winner), or a list such as total_list_p.csv."
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(help="Search configuration, whose key training says how. Default: the run's own."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Run folder of a code or a list. Default: runs/ and the name of --config."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="In place of the configured number.")] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="GPUs of this machine, a process each.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes on a machine without a GPU. Default: 1.")
    ] = None,
    pretrained: Annotated[
        Path | None,
        typer.Option(help="ImageNet checkpoint of a ResNet (torchvision, timm, mmpretrain)."),
    ] = None,
    reignite: Annotated[
        bool,
        typer.Option("--reignite", help="First train the searched backbone on ImageNet."),
    ] = False,
    table: console.TableFolder = None,
    as_json: console.Json = False,
) -> None:
    """Train one network fully. After a kill the same command goes on at the last checkpoint."""
    from spnas_hw.detection.datasets import prepare, require_classes
    from spnas_hw.pipeline import full_training
    from spnas_hw.pipeline.start import run_named

    this, code, source = _chosen(network, config, run, table)
    require_classes(this.config.dataset, this.config.detector.classes)
    plan = full_training.plan(
        this,
        code,
        source,
        epochs=epochs,
        processes=_processes(gpus, processes),
        reignite=reignite,
        pretrained=pretrained,
    )
    full_training.check(this, plan)
    with console.bar(console.stderr, "rendering scenes") as progress:
        prepare(this.config.dataset, this.config.size, progress)
    if run_named(network) is None:
        Journal(this.folder / JOURNAL, this.header())
    batch = plan.training.batch(plan.processes)
    rate = plan.training.scaled_learning_rate(plan.processes)
    shown = f"{plan.training.epochs} epochs, batch {batch}, learning rate {rate:g}"
    console.stderr.print(shown, highlight=False)
    with console.resumable("the same command"), console.trials(console.stderr, None) as (bar, show):
        trained = full_training.fully_train(this, plan, progress=bar, on_trial=show)
    if as_json:
        console.print_json({"run": str(this.folder), "fully_trained": asdict(trained)})
        return
    console.stdout.print(console.winner_line(trained, "fully trained"))
    console.stdout.print(f"next: spnas-hw export {this.folder} --fully-trained")


def _chosen(
    network: str, config: str | None, run: Path | None, table: Path | None
) -> tuple[Run, str, Trial | None]:
    """The run that holds the training, what is trained, and the trial whose weights it starts from."""
    from spnas_hw.pipeline.full_training import searched
    from spnas_hw.pipeline.sp_nas_run import best_code
    from spnas_hw.pipeline.start import run_named

    if network.endswith(".csv"):
        code = best_code(Path(network))
    elif (folder := run_named(network)) is not None:
        if run is not None or table is not None:
            raise InvalidConfig(f"{folder} has a folder and a table: leave --run and --table out")
        this = Run.open(folder)
        best = this.winner()
        # How it is trained may be told anew; what, on which data, may not.
        settings = this.config if config is None else replace(this.config, training=_load(config).training)
        return replace(this, config=settings), best.code, searched(this, best.code)
    else:
        code = encode(decode(network))
    if config is None:
        raise InvalidConfig(f"{network} says nothing of data and detector: give --config")
    home = run or Path("runs") / Path(config).stem
    this = Run(home, _load(config), Budget(), table and table.resolve())
    return this, code, None


def _load(config: str) -> SearchConfig:
    return overridden(load_search(config), max_sample=None, seed=None)


def _processes(gpus: int | None, processes: int | None) -> int:
    """Raises InvalidConfig where there are fewer GPUs, or GPUs that would not be used."""
    from spnas_hw.detection.training import visible_gpus

    found = visible_gpus()
    if gpus is not None and (processes is not None or gpus > found):
        raise InvalidConfig(f"--gpus {gpus}: there are {found} GPUs here; without any, give --processes")
    if processes is not None and processes > 1 and found:
        raise InvalidConfig(f"--processes is for machines without a GPU: give --gpus, up to {found}")
    return gpus or processes or 1
