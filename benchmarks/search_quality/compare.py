"""Our search against others on a space of which every architecture was trained: serial.csv or parallel.csv.

Each strategy may train the same number of candidates within the same MACs budget, from the same start
network, with the same seeds. Results go to benchmarks/results/.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pandas
import typer
from matplotlib.figure import Figure
from parallel_strategies import parallel_phase
from replay import Table, read_table, replay
from rich.console import Console
from rich.table import Table as RichTable
from scipy.stats import spearmanr
from serial_strategies import serial_phase
from strategies import Nsga2, RandomSearch, RegularisedEvolution
from tabular import Tabular

from spnas_hw.search.journal import Phase
from spnas_hw.search.searcher import Searcher
from spnas_hw.space.codec import decode, encode

Array: TypeAlias = npt.NDArray[np.float64]
Point: TypeAlias = tuple[float, float]
RESULTS = Path(__file__).parent.parent / "results"
OURS, PLAIN = "ours", "ours without surrogate"
CANDIDATES = 32
SAMPLES: dict[Phase, int] = {"serial": 40, "parallel": 30}
RESULT: dict[Phase, str] = {"serial": "search_quality", "parallel": "search_quality_parallel"}
CHECKPOINTS = (10, 20, 40)
WINS_TARGET = 0.8
RESAMPLES = 2000
REPORT_WIDTH = 130


def main(
    phase: Annotated[str, typer.Option(help="Which benchmark, serial or parallel.")] = "serial",
    seeds: Annotated[int, typer.Option(min=2, help="Searches of every strategy.")] = 50,
    samples: Annotated[
        int | None,
        typer.Option(min=2, help="Candidates each trains, the start among them; default: 40, parallel 30."),
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Default: what train_table.py collected.")] = None,
    results: Annotated[Path, typer.Option(help="Where the results go.")] = RESULTS,
) -> None:
    if phase not in get_args(Phase):
        raise typer.BadParameter(f"{phase!r} is neither serial nor parallel")
    tabular = Tabular(phase)
    config, table = tabular.configuration(), table or tabular.table
    if not table.exists():
        raise typer.BadParameter(f"there is no {table}: train_table.py --phase {phase} makes it")
    samples = samples or SAMPLES[phase]
    known, by_seed = read_table(tabular, table)
    if encode(decode(config.start)) not in known.mean_ap:
        raise typer.BadParameter(f"{table} does not hold the start network {config.start}")
    curves: dict[str, Array] = {}
    strategies: dict[str, Any] = {}
    for name, make in makers(known).items():
        begin = time.perf_counter()
        searches = [replay(make(), known, samples, seed) for seed in range(seeds)]
        seconds = time.perf_counter() - begin
        curves[name] = np.array([best_so_far([t.mean_ap or 0.0 for t in s], samples) for s in searches])
        volumes = [
            hypervolume([(t.mean_ap or 0.0, t.macs) for t in trials], (0.0, known.budget))
            for trials in searches
        ]
        strategies[name] = summary(curves[name], np.array(volumes), known)
        strategies[name] |= {
            "exhausted": sum(len(trials) < samples for trials in searches),
            "seconds_per_search": round(seconds / seeds, 3),
        }
    wins = {
        ours: {rival: win_rates(curves[ours], curves[rival]) for rival in curves if rival != ours}
        for ours in (OURS, PLAIN)
    }
    met = {
        f"{OURS} wins {found['best']:.0%} of the seeds against {rival} (equal: {found['equal']:.0%}), "
        f"at least {WINS_TARGET:.0%}": found["best"] >= WINS_TARGET
        for rival, found in wins[OURS].items()
        if rival != PLAIN
    }
    document = {
        "phase": phase,
        "architectures": len(known.codes),
        "budget_macs": known.budget,
        "best_mAP": known.best,
        "start": config.start,
        "start_mAP": known.mean_ap[encode(decode(config.start))],
        "samples": samples,
        "seeds": seeds,
        "noise": noise(by_seed),
        "strategies": strategies,
        "wins": wins,
        "targets": met,
    }
    report(document)
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{RESULT[phase]}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw(curves, known.best, results / f"{RESULT[phase]}.png")


def makers(table: Table) -> dict[str, Callable[[], Searcher]]:
    """Every strategy by name, as a function that makes a fresh one."""
    config = table.tabular.configuration()
    start, codes = decode(config.start), table.codes
    of = {"serial": serial_phase, "parallel": parallel_phase}[table.tabular.phase](config, table)
    return {
        OURS: lambda: of.ours(CANDIDATES),
        PLAIN: lambda: of.ours(1),
        "random": lambda: RandomSearch(start, codes),
        "ancestor": of.ancestor,
        "regularised evolution": lambda: RegularisedEvolution(start, codes, of.mutate),
        "NSGA-II": lambda: Nsga2(start, codes, of.genome, of.population),
    }


def best_so_far(values: Sequence[float], samples: int) -> Array:
    """Best value after 1, 2, ... candidates; a search that ended early keeps its last."""
    padded = [*values, *[values[-1]] * (samples - len(values))]
    best: Array = np.maximum.accumulate(np.array(padded, dtype=float))
    return best


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area of (value, cost) that the points dominate, bounded by `reference`: the least value, the
    greatest cost."""
    area, height = 0.0, reference[0]
    left = sorted(points, key=lambda point: (point[1], -point[0]))
    for value, cost in left:
        if value > height and cost < reference[1]:
            area += (value - height) * (reference[1] - cost)
            height = value
    return area


def summary(curves: Array, volumes: Array, table: Table) -> dict[str, Any]:
    """What is told of one strategy. `curves` is [seed, candidates]; intervals are of the mean, 95 %."""
    whole = hypervolume(
        [(table.mean_ap[code], table.macs[code]) for code in table.codes], (0.0, table.budget)
    )
    low, high = band(curves)
    shown = sorted({count for count in CHECKPOINTS if count <= curves.shape[1]} | {curves.shape[1]})
    regrets = {count: table.best - curves[:, [count - 1]] for count in shown}
    return {
        "best_mAP": np.round(curves.mean(0), 5).tolist(),
        "best_mAP_low": np.round(low, 5).tolist(),
        "best_mAP_high": np.round(high, 5).tolist(),
        "regret": {str(count): _with_band(values) for count, values in regrets.items()},
        "found_the_best": float(np.mean(curves[:, -1] == table.best)),
        "hypervolume_share": _with_band(volumes[:, None] / whole),
    }


def _with_band(values: Array) -> list[float]:
    low, high = band(values)
    return [round(float(value), 5) for value in (values.mean(), low[0], high[0])]


def band(values: Array) -> tuple[Array, Array]:
    """The 95 % percentile bootstrap interval of the mean over the first axis."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(RESAMPLES, len(values)))].mean(1)
    return np.percentile(means, 2.5, axis=0), np.percentile(means, 97.5, axis=0)


def win_rates(ours: Array, rival: Array) -> dict[str, float]:
    """Shares of the seeds in which we found better in the end, equally good, and were better on average
    over all candidates (the area under the curve)."""
    return {
        "best": float(np.mean(ours[:, -1] > rival[:, -1])),
        "equal": float(np.mean(ours[:, -1] == rival[:, -1])),
        "area": float(np.mean(ours.sum(1) > rival.sum(1))),
        "area_equal": float(np.mean(ours.sum(1) == rival.sum(1))),
    }


def noise(by_seed: pandas.DataFrame) -> dict[str, Any]:
    """How far trainings with another seed agree with the table: a ceiling for any strategy."""
    found = {}
    for seed in by_seed.columns.drop(0):
        pairs = by_seed[[0, seed]].dropna()
        found[str(seed)] = {
            "architectures": len(pairs),
            "spearman": round(float(spearmanr(pairs[0], pairs[seed])[0]), 4) if len(pairs) > 2 else None,
            # Of one training: the difference of two has twice the variance.
            "deviation": round(float((pairs[0] - pairs[seed]).std() / np.sqrt(2)), 5),
        }
    return found


def report(document: dict[str, Any]) -> None:
    """Prints what was found, rounded."""
    console = Console(width=max(REPORT_WIDTH, Console().width))
    console.print(
        f"{document['architectures']} architectures up to {document['budget_macs'] / 1e6:.2f} M MACs; "
        f"best mAP {document['best_mAP']:.4f}, start {document['start_mAP']:.4f}; {document['seeds']} seeds"
    )
    for seed, found in document["noise"].items():
        console.print(f"noise: training with seed {seed}: {found}")
    counts = list(next(iter(document["strategies"].values()))["regret"])
    found = RichTable("strategy", "mAP", "95 %", *(f"regret @{count}" for count in counts), box=None)
    for column in ("found best", "hypervolume", "exhausted", "s/search"):
        found.add_column(column)
    for name, one in document["strategies"].items():
        found.add_row(
            name,
            f"{one['best_mAP'][-1]:.4f}",
            f"{one['best_mAP_low'][-1]:.4f} to {one['best_mAP_high'][-1]:.4f}",
            *(f"{one['regret'][count][0]:.4f}" for count in counts),
            f"{one['found_the_best']:.0%}",
            f"{one['hypervolume_share'][0]:.1%}",
            str(one["exhausted"]),
            f"{one['seconds_per_search']:.2f}",
        )
    console.print(found)
    won = RichTable("", "against", "better", "equal", "better by area", box=None)
    for ours, rivals in document["wins"].items():
        for rival, rates in rivals.items():
            won.add_row(ours, rival, *(f"{rates[key]:.0%}" for key in ("best", "equal", "area")))
    console.print(won)
    for target, is_met in document["targets"].items():
        console.print(f"{'met   ' if is_met else 'MISSED'} {target}", highlight=False)


def draw(curves: dict[str, Array], best: float, path: Path) -> None:
    """Best mAP against candidates trained, the mean over seeds with its 95 % interval."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        counts = np.arange(1, values.shape[1] + 1)
        (line,) = axes.plot(counts, values.mean(0), label=name)
        axes.fill_between(counts, *band(values), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(best, color="0.5", linestyle="--", label="best of the table")
    axes.set_xlabel("candidates trained")
    axes.set_ylabel("best mAP within the budget, mean over seeds")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    typer.run(main)
