"""`spnas-hw data`: rendering, checking and converting data sets."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from spnas_hw import console
from spnas_hw.errors import DataError, InvalidConfig

if TYPE_CHECKING:
    from spnas_hw.detection.datasets.ecp_check import Checked

data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
Time = Enum("Time", {name: name for name in ("day", "night")}, type=str)
Split = Enum("Split", {name: name for name in ("train", "val")}, type=str)
Root = Annotated[Path, typer.Argument(help="The folder that holds ECP/day, or day.")]
MinHeight = Annotated[float, typer.Option(min=0, help="Smaller persons are ignored; 20 in the protocol.")]


@data_app.command("synthesize")
def synthesize(config: console.Config = "demo") -> None:
    """Render the synthetic streets of a search configuration, in the layout of EuroCity Persons."""
    from spnas_hw.config import load_search
    from spnas_hw.detection.datasets import prepare

    loaded = load_search(config)
    if loaded.dataset.type != "streets":
        raise InvalidConfig(f"{config} uses {loaded.dataset.type} data: only streets can be synthesized")
    with console.bar(console.stderr, "rendering scenes") as progress:
        prepare(loaded.dataset, loaded.size, progress)
    console.stdout.print(str(loaded.dataset.root))


@data_app.command("check")
def check(root: Root, min_height_px: MinHeight = 20, as_json: console.Json = False) -> None:
    """Count the images, labels and persons of EuroCity Persons and list damaged files; changes nothing."""
    from spnas_hw.detection.datasets import ecp_check

    with console.bar(console.stderr, "checking files") as progress:
        found = ecp_check.check(root, min_height_px, progress)
    if as_json:
        console.print_json(asdict(found))
    else:
        for table in _tables(found):
            console.stdout.print(table)
        for line in found.broken:
            console.stdout.print(line, highlight=False)
    if found.broken:
        raise DataError(f"{len(found.broken)} files of {root} are damaged or missing: download them again")


@data_app.command("ecp-to-coco")
def ecp_to_coco(
    root: Root,
    out: Annotated[Path, typer.Option(help="The file to write.")],
    split: Annotated[Split, typer.Option()],
    time: Annotated[Time | None, typer.Option(help="Default: day and night.")] = None,
    min_height_px: MinHeight = 20,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write EuroCity Persons' labels in COCO's format. The data's licence forbids passing the file on."""
    from spnas_hw.detection.datasets.ecp import TIMES
    from spnas_hw.detection.datasets.ecp_to_coco import coco_document

    if out.exists() and not force:
        raise DataError(f"{out} is there already: choose another file, or add --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    times = TIMES if time is None else (time.value,)
    with console.bar(console.stderr, "reading labels") as progress:
        document = coco_document(
            root, split.value, min_height_px=min_height_px, times=times, progress=progress
        )
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(json.dumps(document))
    os.replace(partial, out)
    crowds = sum(annotation["iscrowd"] for annotation in document["annotations"])
    persons = len(document["annotations"]) - crowds
    console.stdout.print(
        f"{out}: {len(document['images']):,} images, {persons:,} persons, {crowds:,} ignored"
    )


def _tables(found: Checked) -> list[Table]:
    """Two tables: of the splits, and of what lies in each: by city, identity and tag."""
    splits, contents = (Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False) for _ in range(2))
    splits.caption = "in brackets: ignored"
    for heading in ("split", "cities", "images", "labels", "pedestrians", "riders"):
        splits.add_column(heading, justify="left" if heading == "split" else "right", no_wrap=True)
    contents.add_column("city, identity, tag")
    for one in found.splits:
        name = f"{one.time} {one.split}"
        contents.add_column(name, justify="right")
        images = sum(one.images.values())
        persons = [f"{one.trained[kind]:,} ({one.ignored[kind]:,})" for kind in ("pedestrian", "rider")]
        splits.add_row(name, str(len(one.images)), f"{images:,}", f"{one.labels:,}", *persons)
    for counts in ("images", "identities", "tags"):
        for name in dict.fromkeys(name for one in found.splits for name in getattr(one, counts)):
            contents.add_row(name, *(f"{getattr(one, counts).get(name, 0):,}" for one in found.splits))
        contents.add_section()
    return [splits, contents]
