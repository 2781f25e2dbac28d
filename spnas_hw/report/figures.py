"""Figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spnas_hw.errors import RunError
from spnas_hw.search.journal import Trial


def latency_figure(
    path: Path,
    trials: Sequence[Trial],
    *,
    budget_ms: float | None,
    baseline: Trial | None,
    source: str,
    title: str,
) -> None:
    """mAP against latency as a PNG: all trials, the front, the budget, the baseline.

    `baseline` is the network the search started from, trained as long as the winner was; `source` says
    where the latencies come from.

    Raises:
        RunError: no trial has both numbers.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    shown = [trial for trial in trials if trial.mean_ap is not None and trial.latency_ms is not None]
    if not shown:
        raise RunError("no trial has both a latency and a mAP yet: there is nothing to draw")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    by_id = {trial.trial_id: trial for trial in shown}
    for trial in shown:
        parent = by_id.get(-1 if trial.parent_id is None else trial.parent_id)
        if parent is not None:
            axes.annotate(
                "",
                xy=(trial.latency_ms or 0, trial.mean_ap or 0),
                xytext=(parent.latency_ms or 0, parent.mean_ap or 0),
                arrowprops={"arrowstyle": "->", "color": "0.8", "shrinkA": 4, "shrinkB": 4},
            )
    axes.scatter(*_points(shown), color="tab:blue", zorder=3, label="trials")
    ordered = faster_is_worse(shown)
    axes.step(*_points(ordered), where="post", color="tab:blue", alpha=0.6, label="front: mAP and latency")
    winner = max(shown, key=lambda trial: (trial.mean_ap or 0, -trial.trial_id))
    axes.scatter(*_points([winner]), marker="*", s=220, color="tab:green", zorder=4, label="winner")
    axes.annotate(
        winner.code, _point(winner), textcoords="offset points", xytext=(0, 10), ha="right", fontsize=7
    )
    if baseline is not None and baseline.mean_ap is not None:
        axes.scatter(
            *_points([baseline]),
            marker="D",
            s=60,
            color="tab:orange",
            zorder=4,
            label="start network, trained as long",
        )
    if budget_ms is not None:
        axes.axvline(budget_ms, color="tab:red", linestyle="--", label=f"budget {budget_ms:g} ms")
    axes.set_xlabel(f"latency of the whole detector, {source} (ms)")
    axes.set_ylabel("COCO mAP")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(0.08, 0.15)  # room for the winner's code
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def faster_is_worse(trials: Sequence[Trial]) -> list[Trial]:
    """Those that are better than everything faster: the front in mAP and latency alone."""
    chosen: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.latency_ms or 0, -(t.mean_ap or 0))):
        if not chosen or (trial.mean_ap or 0) > (chosen[-1].mean_ap or 0):
            chosen.append(trial)
    return chosen


def _point(trial: Trial) -> tuple[float, float]:
    return trial.latency_ms or 0.0, trial.mean_ap or 0.0


def _points(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [_point(trial)[0] for trial in trials], [_point(trial)[1] for trial in trials]
