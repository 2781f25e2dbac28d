"""The published networks of SP-NAS as whole detectors: built, costed, exported, and held against PyTorch.

Weights are random (the trained ones are no longer to be had), scaled so that boxes and scores vary from place
to place; costs do not depend on them. Agreement is that of the exported ONNX in ONNX Runtime with mmdet's own
prediction, on synthetic streets.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import Tensor, nn

from profilers.backends import backend_by_name
from profilers.environment import package_version
from spnas_hw import console
from spnas_hw.config import load_search
from spnas_hw.cost.composition import cost
from spnas_hw.cost.workload import Size
from spnas_hw.detection.datasets import image_paths, prepare
from spnas_hw.detection.detector import build_model
from spnas_hw.detection.inference import Array, detect, preprocess
from spnas_hw.export.detector import detector_onnx
from spnas_hw.export.parity import parity
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode, encode
from spnas_hw.space.detector import Detector

RESULT = Path(__file__).parent / "results" / "published.json"
ECP = "rd_11121111-21111-112-1111-1111_0-0-2-0-3"
COCO = "x(32x4d)_1111-21111-2111111111111111111111111-211-1_1-0-2-1-2"
PUBLISHED = {"params": 115.9e6, "macs": 984.2e9}
"""Of the detector on ECP, at 1920x1024; the model zoo tells neither which detector nor how it counted."""
FULL: dict[str, Size] = {ECP: (1024, 1920), COCO: (800, 1344)}
SPREADS = {"rpn_cls": 2.0, "rpn_reg": 0.5, "fc_cls": 2.0, "fc_reg": 0.5}
GAMMAS, RESIDUAL_GAMMAS = (0.5, 1.0), (0.05, 0.15)
"""Of normalisations, and of those whose output is added to something. Were the latter as large, so deep a
random network would be chaotic: its float32 features are 7 % away from those of float64."""
BACKGROUND = 4.0
"""Bias of its logit: not everything is an object."""
PACKAGES = ("torch", "onedl-mmdetection", "onnx", "onnxruntime")


def main(
    size: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the images for the comparison.")] = "256x512",
    images: Annotated[int, typer.Option(min=1, help="Images for the comparison.")] = 4,
) -> None:
    torch.set_num_threads(1)
    height, width = (int(side) for side in size.split("x"))
    data = load_search("demo").dataset
    prepare(data, (height, width))
    paths = image_paths(data, "val")[:images]
    rows = []
    for code, classes in ((ECP, ("pedestrian", "rider")), (COCO, tuple(map(str, range(80))))):
        for kind in ("faster_rcnn", "cascade_rcnn"):
            detector = Detector(classes, type=kind)
            rows.append(_row(decode(code), detector, (height, width), paths))
            console.stderr.print(json.dumps(rows[-1]), highlight=False)
    _report(rows)
    about = {
        "date": date.today().isoformat(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "published": PUBLISHED,
    }
    RESULT.write_text(json.dumps({"provenance": about, "detectors": rows}, indent=1) + "\n")


def _row(architecture: Architecture, detector: Detector, size: Size, paths: list[Path]) -> dict[str, Any]:
    serial = replace(architecture, stages=tuple(replace(s, branches=0) for s in architecture.stages))
    full = FULL[encode(architecture)]
    found, alone = (cost(each, detector, full, None) for each in (architecture, serial))
    pictures = [preprocess(path, size) for path in paths]
    torch.manual_seed(0)
    model = lively(build_model(architecture, detector), pictures[0])
    begin = time.perf_counter()
    exported = detector_onnx(model, detector, size)
    seconds = time.perf_counter() - begin
    with backend_by_name("onnxruntime", threads=1) as backend:
        session = backend.load(exported)

        def run(image: Any) -> Any:
            outputs = session.run({"image": image})
            assert outputs["nms_converged"]
            real = outputs["labels"] >= 0
            return outputs["boxes"][real], outputs["scores"][real], outputs["labels"][real]

        agreement = parity(
            pictures,
            lambda image: detect(model, image),
            run,
            detector.score_threshold,
        )
    return {
        "code": encode(architecture),
        "detector": detector.type,
        "classes": len(detector.classes),
        "params": found.params,
        "built_params": sum(p.numel() for p in model.parameters()),
        "full_size": full,
        "macs": found.macs,
        "serial_params": alone.params,
        "serial_macs": alone.macs,
        "export_seconds": round(seconds, 1),
        "compared_at": size,
        "parity": {**asdict(agreement), "agreement": agreement.agreement},
    }


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
