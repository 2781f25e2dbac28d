"""The published networks of SP-NAS as whole detectors: built, costed, exported, and held against PyTorch.

Weights are random (the trained ones are no longer to be had), scaled so that boxes and scores vary from place
to place; costs do not depend on them. Each detector is exported by `spnas-hw export`, which compares the ONNX
in ONNX Runtime with mmdet's own prediction on synthetic streets: those of the demo for EuroCity Persons, and
the same images with COCO's 80 classes in COCO's layout. Metrics of random weights are next to nothing, but
have to be equal as well.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import torch
import typer
from command import spnas_hw
from mmdet.datasets import CocoDataset
from rich.table import Table
from torch import Tensor, nn

from profilers.environment import package_version
from spnas_hw import console
from spnas_hw.config import Dataset, SearchConfig, load_search
from spnas_hw.cost.composition import cost
from spnas_hw.cost.constraints import Budget
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets import image_paths, prepare
from spnas_hw.detection.detector import build_model
from spnas_hw.detection.inference import Array, detect, preprocess
from spnas_hw.detection.weights import save_weights
from spnas_hw.run import FULL_TRAINING, JOURNAL, Run
from spnas_hw.search.journal import Journal, Trial
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode

RESULT = Path(__file__).parent / "results" / "published.json"
ECP = "rd_11121111-21111-112-1111-1111_0-0-2-0-3"
COCO = "x(32x4d)_1111-21111-2111111111111111111111111-211-1_1-0-2-1-2"
PUBLISHED = {"params": 115.9e6, "macs": 984.2e9}
"""Of the detector on ECP, at 1920x1024; the model zoo tells neither which detector nor how it counted."""
CONFIGURATIONS = {ECP: "spnet_ecp", COCO: "spnetxb_coco"}
KINDS: tuple[Literal["faster_rcnn", "cascade_rcnn"], ...] = ("faster_rcnn", "cascade_rcnn")
SPREADS = {"rpn_cls": 2.0, "rpn_reg": 0.5, "fc_cls": 2.0, "fc_reg": 0.5}
GAMMAS, RESIDUAL_GAMMAS = (0.5, 1.0), (0.05, 0.15)
"""Of normalisations, and of those whose output is added to something. Were the latter as large, so deep a
random network would be chaotic: its float32 features are 7 % away from those of float64."""
BACKGROUND = 4.0
"""Bias of its logit: not everything is an object."""
PACKAGES = ("torch", "onedl-mmdetection", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Case:
    """A published network in a detector, at its `full` size for the costs and a smaller one to compare at."""

    code: str
    config: SearchConfig
    full: Size

    @property
    def architecture(self) -> Architecture:
        return decode(self.code)


def main(
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the images for the comparison.")] = "256x512",
    images: Annotated[int, typer.Option(min=1, help="Images for the comparison.")] = 16,
    home: Annotated[Path, typer.Option(help="Data, runs and bundles are kept here.")] = Path(
        "build/published"
    ),
) -> None:
    torch.set_num_threads(1)
    height, width = (int(side) for side in size.split("x"))
    rows = []
    for code, name in CONFIGURATIONS.items():
        loaded = load_search(name)
        for kind in KINDS:
            detector = replace(loaded.detector, type=kind)
            small = replace(
                loaded,
                detector=detector,
                dataset=_data(loaded.dataset.type, home, (height, width), images),
                input_height=height,
                input_width=width,
            )
            rows.append(_row(Case(code, small, loaded.size), home / f"{name}-{kind}", images))
            console.stderr.print(json.dumps(rows[-1]), highlight=False)
    _report(rows)
    about = {
        "date": date.today().isoformat(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "published": PUBLISHED,
    }
    RESULT.write_text(json.dumps({"provenance": about, "detectors": rows}, indent=1) + "\n")


def _data(kind: str, home: Path, size: Size, images: int) -> Dataset:
    """Streets as they are, or in COCO's layout with all of its classes."""
    streets = replace(load_search("demo").dataset, root=(home / "streets").resolve(), train=2, val=images)
    prepare(streets, size)
    if kind != "coco":
        return streets
    root = (home / "coco").resolve()
    for split in ("train", "val"):
        folder = root / f"{split}2017"
        folder.mkdir(parents=True, exist_ok=True)
        _write_coco(root / f"annotations/instances_{split}2017.json", folder, image_paths(streets, split))
    return Dataset("coco", root)


def _write_coco(annotations: Path, folder: Path, paths: list[Path]) -> None:
    """One person an image, in its middle: there has to be something to find."""
    pictures, things = [], []
    for number, path in enumerate(paths, 1):
        target = folder / f"{number:012d}.jpg"
        picture = cv2.imread(str(path))
        cv2.imwrite(str(target), picture)
        height, width = picture.shape[:2]
        box = [width / 3, height / 3, width / 3, height / 3]
        pictures.append({"id": number, "file_name": target.name, "height": height, "width": width})
        what = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0}
        things.append({**what, "bbox": box, "area": box[2] * box[3]})
    names = [{"id": i, "name": name} for i, name in enumerate(CocoDataset.METAINFO["classes"], 1)]
    annotations.parent.mkdir(exist_ok=True)
    annotations.write_text(json.dumps({"images": pictures, "annotations": things, "categories": names}))


def _row(case: Case, folder: Path, images: int) -> dict[str, Any]:
    architecture, detector = case.architecture, case.config.detector
    serial = replace(architecture, stages=tuple(replace(s, branches=0) for s in architecture.stages))
    found, alone = (cost(each, detector, case.full, None) for each in (architecture, serial))
    torch.manual_seed(0)
    picture = preprocess(image_paths(case.config.dataset, "val")[0], case.config.size)
    model = lively(build_model(architecture, detector), picture)
    _write_run(folder, case, model)
    begin = time.perf_counter()
    bundle = _exported(folder, images)
    parity = bundle["parity"]["onnxruntime"]
    return {
        "code": case.code,
        "detector": detector.type,
        "classes": len(detector.classes),
        "params": found.params,
        "built_params": sum(p.numel() for p in model.parameters()),
        "full_size": case.full,
        "macs": found.macs,
        "serial_params": alone.params,
        "serial_macs": alone.macs,
        "export_seconds": round(time.perf_counter() - begin, 1),
        "compared_at": case.config.size,
        "parity": parity["exact"],
        "metric_error": parity["metric_error"],
        "measured_ms": bundle["latency"]["clock"]["median_ms"],
        "files": bundle["files"],
    }


def _write_run(folder: Path, case: Case, model: nn.Module) -> None:
    """A run folder as `spnas-hw train` would leave it, had it trained these weights."""
    shutil.rmtree(folder, ignore_errors=True)
    run = Run(folder, case.config, Budget(macs=1e13), None)
    Journal(folder / JOURNAL, run.header())
    found = run.price(case.architecture)
    home = folder / FULL_TRAINING
    trial = Trial(
        trial_id=0,
        phase="serial",
        code=case.code,
        parent_id=None,
        parent_code=None,
        operator="random weights",
        status="ok",
        metrics={"mAP": 0.0},
        latency_ms=None,
        latency_source=None,
        memory_mb=found.memory_mb,
        macs=found.macs,
        params=found.params,
        iterations=0,
        t_start=0.0,
        t_end=0.0,
    )
    Journal(home / JOURNAL, {"from_trial": None}).append(trial)
    (home / "0000").mkdir()
    save_weights(model.state_dict(), home / "0000", case.code)


def _exported(folder: Path, images: int) -> dict[str, Any]:
    """The metadata of the bundle that the command makes; a benchmark fails where it does."""
    print(spnas_hw("export", str(folder), "--fully-trained", "--images", str(images)))
    bundle = folder / FULL_TRAINING / "bundle"
    found: dict[str, Any] = json.loads((bundle / "metadata.json").read_text())
    return found


def lively(model: nn.Module, image: Array) -> nn.Module:
    """Random weights under which a detector finds different things in different places: normalisations learn
    their statistics from `image`, and what the heads put out for it is scaled to a fixed spread."""
    generator = torch.Generator().manual_seed(0)
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            added = name.endswith(".bn3") or ".connection" in name
            module.weight.data.uniform_(*(RESIDUAL_GAMMAS if added else GAMMAS), generator=generator)
            module.momentum = None  # the mean of all runs, where sub-networks share
            module.train()
        if (spread := SPREADS.get(name.rpartition(".")[2])) is not None:
            module.weight.data.normal_(generator=generator)
            hooks.append(module.register_forward_hook(_scaling(spread)))
        if name.endswith("fc_cls"):
            module.bias.data[-1] = BACKGROUND
    with torch.no_grad():
        model.backbone(torch.from_numpy(image))
    detect(model.eval(), image)
    for hook in hooks:
        hook.remove()
    return model


def _scaling(spread: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A forward hook that scales the weights of a layer once, by what it puts out the first time."""
    done: list[float] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if done:
            return output
        bias = module.bias.view(-1, *[1] * (output.dim() - 2)) if output.dim() > 2 else module.bias
        done.append(spread / float((output - bias).std()))
        module.weight.data *= done[0]
        return bias + (output - bias) * done[0]

    return hook


def _report(rows: list[dict[str, Any]]) -> None:
    table = Table("code", "detector", "M params", "GMACs", "published", "agreement", "detections")
    for row in rows:
        told = ""
        if row["code"] == ECP:
            params, macs = row["params"] / PUBLISHED["params"], row["macs"] / PUBLISHED["macs"]
            told = f"params {params - 1:+.1%}, MACs {macs - 1:+.1%}"
        agreed = row["parity"]["agreement"]
        table.add_row(
            row["code"],
            row["detector"],
            f"{row['params'] / 1e6:.1f}",
            f"{row['macs'] / 1e9:.1f}",
            told,
            "none detected" if agreed is None else f"{agreed:.2%}",
            str(row["parity"]["detections"]),
        )
    console.stdout.print(table)


if __name__ == "__main__":
    typer.run(main)
