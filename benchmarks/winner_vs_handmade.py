"""Does a searched network beat a hand-made one of equal measured latency, trained alike?

The hand-made one is ResNet-34's shape in the demo's slim width. Its detector is measured whole; a search
under that latency, in a space that leaves the number of stages and of doublings open, finds candidates.
A prediction errs, so the best are measured whole, in turns with the hand-made one, and what is slower is out.
Within a search the mAP of a network also tells how long its ancestors were trained, so the best few left are
trained alike, from nothing with a seed of its own, and the best of these is the winner. It and the hand-made
one are trained with the same settings and three seeds each.
Prints mAP and LAMR of all, writes `results/winner_vs_handmade.json`. About an hour on two cores; what was
done is not repeated (`build/winner_vs_handmade`).
"""

from __future__ import annotations

import json
import os
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from command import spnas_hw

from profilers.backends import backend_by_name
from profilers.environment import cpu_name
from profilers.interleaving import Settings
from profilers.whole import measure_model
from spnas_hw import __version__
from spnas_hw.config import configs_folder, load_search, read_yaml
from spnas_hw.detection.detector import build_model
from spnas_hw.export.detector import detector_onnx
from spnas_hw.export.workloads import with_live_norms
from spnas_hw.run import Run
from spnas_hw.search.journal import best_of_each
from spnas_hw.space.codec import decode

ROOT = Path(__file__).parent.parent
HOME = ROOT / "build" / "winner_vs_handmade"
RESULTS = ROOT / "benchmarks" / "results" / "winner_vs_handmade.json"
HANDMADE = "b16_111-2111-211111-211"
SEEDS = (0, 1, 2)
REMEASURED, FINALISTS, FINAL_SEED = 8, 4, 3
SITTINGS = 3
METRICS = ("mAP", "AP50", "lamr/day_pedestrian_reasonable", "lamr/day_pedestrian_all", "lamr/day_rider_all")
DATASET = {"type": "streets", "root": "streets", "min_height_px": 10, "train": 1000, "val": 250, "seed": 11}
SPACE = {
    "blocks": ["b"],
    "base_channels": 16,
    "deep_stem": False,
    "stages": [3, 5],
    "depth": [6, 24],
    "doublings": [1, 3],
}
START = "b16_11-2-111"
SCHEDULE = {"start_iterations": 3000, "iterations": 300}
SERIAL = {"max_sample": 20, "max_optimal": 4, "expand_prob": 0.5, "widen_prob": 0.1}
PARALLEL = {"max_sample": 4}
TRAINING = {
    "epochs": 6,
    "images_per_process": 2,
    "learning_rate": 0.0025,
    "learning_rate_batch": 2,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "warmup_iterations": 50,
    "decay": "cosine",
    "final_learning_rate": 0.00005,
    "clip_grad_norm": 10.0,
    "rpn_samples": 64,
    "roi_samples": 64,
    "checkpoint_iterations": 250,
}


def main() -> None:
    HOME.mkdir(parents=True, exist_ok=True)
    os.chdir(HOME)
    write_configs()
    if not Path("latency.json").exists():
        Path("latency.json").write_text(json.dumps(measured([HANDMADE])[HANDMADE]))
    budget = json.loads(Path("latency.json").read_text())[0]
    spnas_hw("data", "synthesize", "--config", "search.yml")
    spnas_hw("profile", "--config", "search.yml", "--calibration", "16", "--out", "latency_tables")
    if not Path("searched").exists():
        begun = ("--resume",) if Path("runs/search").exists() else ()
        words = ("--latency-ms", f"{budget:.3f}", "--run", "runs/search", *begun)
        spnas_hw("search", "--config", "search.yml", *words)
        Path("searched").touch()
    trials = Run.open(Path("runs/search")).trials()
    latencies = measured([HANDMADE, *(trial.code for trial in best_of_each(trials)[:REMEASURED])])
    within = [code for code in latencies if code != HANDMADE and latencies[code][0] <= latencies[HANDMADE][0]]
    finalists = trained_all(within[:FINALISTS], [FINAL_SEED])
    winner = max(finalists, key=lambda code: finalists[code][0]["mAP"])
    metrics = trained_all([HANDMADE, winner], list(SEEDS))
    networks = {
        code: {"latency_ms": latencies[code], "metrics": metrics[code]} for code in (HANDMADE, winner)
    }
    report(networks, winner)
    document = {
        "tool_version": __version__,
        "device": cpu_name(),
        "handmade": HANDMADE,
        "winner": winner,
        "budget_ms": budget,
        "searched_trials": len(trials),
        "remeasured_ms": latencies,
        "finalists": finalists,
        "space": SPACE,
        "dataset": DATASET,
        "training": TRAINING,
        "networks": networks,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


def write_configs() -> None:
    """The search's configuration, and one of a full training for each seed."""
    document = read_yaml(configs_folder() / "searches" / "demo.yml")
    document |= {"dataset": DATASET, "training": TRAINING, "headroom": 0.0}
    search = {**document, "space": SPACE, "start": START, "parallel": PARALLEL}
    search["schedule"] = {**document["schedule"], **SCHEDULE}
    search["serial"] = {**document["serial"], **SERIAL}
    Path("search.yml").write_text(yaml.safe_dump(search))
    for seed in (*SEEDS, FINAL_SEED):
        Path(f"training_{seed}.yml").write_text(yaml.safe_dump({**document, "seed": seed}))


def measured(codes: list[str]) -> dict[str, list[float]]:
    """Latencies of whole detectors in ms, the median of every sitting first: all in turns, several times."""
    config = load_search("demo")
    models = {
        code: detector_onnx(
            with_live_norms(build_model(decode(code), config.detector)), config.detector, config.size
        )
        for code in codes
    }
    found: dict[str, list[float]] = {code: [] for code in codes}
    with backend_by_name("onnxruntime", threads=1) as backend:
        for _ in range(SITTINGS):
            for code, model in models.items():
                found[code].append(measure_model(backend, model, settings=Settings()).raw.median_ms)
    return {code: [statistics.median(values), *values] for code, values in found.items()}


def trained_all(codes: list[str], seeds: list[int]) -> dict[str, list[dict[str, float]]]:
    """Metrics of each network with each seed, two trained at a time."""
    jobs = [(code, seed) for seed in seeds for code in codes]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda job: trained(*job), jobs))
    return {
        code: [metrics for (own, _), metrics in zip(jobs, found, strict=True) if own == code]
        for code in codes
    }


def trained(code: str, seed: int) -> dict[str, float]:
    """Metrics of a full training; one that ended is not repeated."""
    words = ("--config", f"training_{seed}.yml", "--run", f"runs/{code}_{seed}")
    output = spnas_hw("train", code, *words, "--json")
    metrics = json.loads(output.splitlines()[-1])["fully_trained"]["metrics"]
    return {name: metrics[name] for name in METRICS if name in metrics}


def report(networks: dict[str, Any], winner: str) -> None:
    print(f"{'':34}{'hand-made':>26}{'winner':>26}")
    print(f"{'code':34}{HANDMADE:>26}{winner:>26}")
    sides = [networks[HANDMADE], networks[winner]]
    print(f"{'latency measured (ms)':34}" + "".join(f"{side['latency_ms'][0]:26.3f}" for side in sides))
    for name in METRICS:
        cells = []
        for side in sides:
            values = [metrics[name] for metrics in side["metrics"]]
            cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        print(f"{name:34}" + "".join(f"{cell:>26}" for cell in cells))


if __name__ == "__main__":
    main()
