"""`spnas-hw evaluate`: how good detections are."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from spnas_hw import console

if TYPE_CHECKING:
    from spnas_hw.detection.metrics.lamr import Lamr

evaluate_app = typer.Typer(help="How good detections are.", no_args_is_help=True)


class ClassName(str, Enum):
    """Classes of EuroCity Persons."""

    PEDESTRIAN = "pedestrian"
    RIDER = "rider"


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
