"""`spnas-hw evaluate`: how good detections are."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from typer.core import TyperGroup

from spnas_hw import console
from spnas_hw.errors import InvalidConfig

if TYPE_CHECKING:
    from spnas_hw.detection.metrics.lamr import Lamr


class PathOrCommand(TyperGroup):
    """A first word that is no command is the path of `network`; a folder named like one is written ./lamr."""

    default = "network"

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = [self.default, *args]
        return super().resolve_command(ctx, args)


evaluate_app = typer.Typer(
    help="How good a network is: spnas-hw evaluate RUN|BUNDLE; or detections: spnas-hw evaluate lamr.",
    no_args_is_help=True,
    cls=PathOrCommand,
)
Split = Enum("Split", {name: name for name in ("train", "val", "test")}, type=str)
VAL = Split("val")


class ClassName(str, Enum):
    """Classes of EuroCity Persons."""

    PEDESTRIAN = "pedestrian"
    RIDER = "rider"


@evaluate_app.command("network")
def evaluate_network(
    folder: Annotated[Path, typer.Argument(help="A run (its winner) or a bundle.")],
    dataset: Annotated[
        str | None, typer.Option(help="A name in configs/datasets, or a file. Default: the run's own.")
    ] = None,
    split: Annotated[Split, typer.Option(help="test is EuroCity Persons' and has no labels.")] = VAL,
    baseline: Annotated[bool, typer.Option("--baseline", help="The run's baseline.")] = False,
    fully_trained: Annotated[
        bool, typer.Option("--fully-trained", help="What was trained fully in the run.")
    ] = False,
    runtime: Annotated[
        str | None, typer.Option(help="What runs a bundle, e.g. tensorrt. Default: onnxruntime, on the CPU.")
    ] = None,
    gpu: console.Gpu = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write detections to, as the benchmark takes them.")
    ] = None,
    as_json: console.Json = False,
) -> None:
    """Detect in every image of a data set and tell its metrics; the same code whatever runs it."""
    from spnas_hw.detection.datasets import prepare_streets
    from spnas_hw.pipeline import evaluation
    from spnas_hw.pipeline.profile import backend

    network = evaluation.network_of(folder, baseline, fully_trained)
    data = evaluation.dataset_named(dataset, network)
    runs = None
    if evaluation.is_bundle(folder):
        runs = backend(runtime, gpu, None, None)
    elif runtime is not None or gpu is not None:
        raise InvalidConfig(f"{folder} is a run, for PyTorch: --runtime and --gpu are for bundles")
    with console.bar(console.stderr, "rendering scenes") as progress:
        prepare_streets(data, network.size, progress)
    with console.bar(console.stderr, "detecting") as progress:
        found = evaluation.evaluate(
            folder,
            network,
            data,
            split.value,
            runs,
            baseline=baseline,
            fully_trained=fully_trained,
            limit=limit,
            out=out,
            progress=progress,
            note=lambda text: console.stderr.print(text, highlight=False, soft_wrap=True),
        )
    if as_json:
        console.print_json({**asdict(found), "folder": found.folder and str(found.folder)})
        return
    console.stdout.print(f"{found.code}: {found.detections:,} detections on {found.images:,} images")
    if found.metrics is not None:
        console.stdout.print(_metrics(found.metrics))
    if found.folder is not None:
        console.stdout.print(str(found.folder))


def _metrics(metrics: dict[str, float | None]) -> Table:
    shown = Table("metric", "value", box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name, value in metrics.items():
        shown.add_row(name, "none" if value is None else f"{value:.4f}")
    return shown


@evaluate_app.command()
def lamr(
    ground_truth: Annotated[Path, typer.Option(help="Folder of label files, of day or of night.")],
    detections: Annotated[Path, typer.Option(help="Folder of detection files, one for every label file.")],
    class_name: Annotated[ClassName | None, typer.Option("--class", help="Default: both classes.")] = None,
    as_json: console.Json = False,
) -> None:
    """Log-average miss rate of EuroCity Persons, from the official JSON files, one an image.

    Both folders are flat or hold folders. Results are for the subsets reasonable, small, occluded and all,
    each without and with ignore_other_vru; never compare one with the other.
    """
    from spnas_hw.detection.datasets.ecp import CLASSES, read_objects
    from spnas_hw.detection.datasets.ecp_detections import pair_files, read_detections
    from spnas_hw.detection.metrics.lamr import evaluate

    files = pair_files(ground_truth, detections)
    images = [(read_objects(label), read_detections(found)) for label, found in files]
    results = evaluate(images, CLASSES if class_name is None else (class_name.value,))
    if as_json:
        console.print_json({"results": [_document(result) for result in results]})
    else:
        console.stdout.print(_table(results, len(images)))


def _document(result: Lamr) -> dict[str, Any]:
    return {
        "class": result.class_name,
        "subset": result.subset,
        "ignore_other_vru": result.ignore_other_vru,
        "lamr": result.lamr,
        "ground_truth": result.ground_truth,
        "detections": result.detections,
        "true_positives": result.true_positives,
        "false_positives": result.false_positives,
    }


def _table(results: list[Lamr], images: int) -> Table:
    """One line a result."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, title=f"{images:,} images")
    shown.caption = "the benchmark's server uses false; never compare it with true"
    for heading in ("class", "subset", "ignore other VRU"):
        shown.add_column(heading, no_wrap=" " not in heading)
    for heading in ("LAMR", "ground truth", "counted", "true", "false"):
        shown.add_column(heading, justify="right")
    for result in results:
        if result.subset == "reasonable" and not result.ignore_other_vru:
            shown.add_section()
        counts = (result.ground_truth, result.detections, result.true_positives, result.false_positives)
        value = "none" if result.lamr is None else f"{result.lamr:.4f}"
        flag = str(result.ignore_other_vru).lower()
        shown.add_row(result.class_name, result.subset, flag, value, *(f"{count:,}" for count in counts))
    return shown
