"""What fewer bits cost: one trained detector exported in FP32, FP16 and INT8, by the real command.

The detector is the hand-made one of `winner_vs_handmade.py`, which has to be trained already, or another run
with a fully trained network. Prints agreement, metrics, latency and size; writes `results/precision.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from command import spnas_hw
from rich.table import Table

from spnas_hw import console

RESULT = Path(__file__).parent / "results" / "precision.json"
HOME = Path(__file__).parent.parent / "build" / "winner_vs_handmade"
DEFAULT = HOME / "runs" / "b16_111-2111-211111-211_0"
METRICS = ("mAP", "AP50", "lamr/day_pedestrian_reasonable", "lamr/day_rider_all")


def main(
    run: Annotated[Path, typer.Argument(help="A run with a fully trained network.")] = DEFAULT,
    home: Annotated[Path, typer.Option(help="Folder that the run's data are named from.")] = HOME,
    calibration_images: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    rows = [
        _row(run.resolve(), home, precision, calibration_images) for precision in ("fp32", "fp16", "int8")
    ]
    table = Table("", *METRICS, "agreement", "ms", "MB")
    for row in rows:
        metrics = (f"{row['metrics'][name]:.4f}" for name in METRICS)
        told = (f"{row['close']['agreement']:.2%}", f"{row['latency_ms']:.3f}", f"{row['size_mb']:.2f}")
        table.add_row(row["precision"], *metrics, *told)
    console.stdout.print(table)
    RESULT.write_text(json.dumps({"calibration_images": calibration_images, "rows": rows}, indent=1) + "\n")


def _row(run: Path, home: Path, precision: str, calibration_images: int) -> dict[str, Any]:
    out = home / "bundles" / precision
    words = ["export", str(run), "--fully-trained", "--precision", precision, "--out", str(out)]
    words += ["--images", "0", "--calibration-images", str(calibration_images), "--allow-over-budget"]
    print(spnas_hw(*words, folder=home))
    about = json.loads((out / "metadata.json").read_text())
    parity = about["parity"]["onnxruntime"]
    return {
        "code": about["code"],
        "precision": precision,
        "exact": parity["exact"],
        "close": parity["close"],
        "metrics": {name: parity["metrics"][name] for name in METRICS},
        "reference_metrics": {name: about["reference_metrics"][name] for name in METRICS},
        "metric_error": parity["metric_error"],
        "latency_ms": about["latency"]["clock"]["median_ms"],
        "backend": about["latency"]["backend"],
        "size_mb": (out / "model.onnx").stat().st_size / 1e6,
    }


if __name__ == "__main__":
    typer.run(main)
