"""Figures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from spnas_hw.errors import RunError
from spnas_hw.search.journal import Trial

CostName = Literal["latency_ms", "macs"]


def cost_figure(
    path: Path,
    trials: Sequence[Trial],
    *,
    cost: CostName,
    label: str,
    budget: float | None,
    baseline: Trial | None,
    title: str,
) -> None:
    """mAP against one cost as a PNG: all trials, the front, the budget, the baseline.

    `baseline` is the network the search started from, trained as long as the winner was; `label` names
    the cost with its unit and where it comes from.

    Raises:
        RunError: no trial has both numbers.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    shown = [t for t in trials if t.mean_ap is not None and getattr(t, cost) is not None]
    if not shown:
        raise RunError(f"no trial has both {cost} and a mAP yet: there is nothing to draw")

    def point(trial: Trial) -> tuple[float, float]:
        return float(getattr(trial, cost)), trial.mean_ap or 0.0

    def points(chosen: Sequence[Trial]) -> tuple[list[float], list[float]]:
        return [point(trial)[0] for trial in chosen], [point(trial)[1] for trial in chosen]

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    by_id = {trial.trial_id: trial for trial in shown}
    for trial in shown:
        parent = by_id.get(-1 if trial.parent_id is None else trial.parent_id)
        if parent is not None:
            axes.annotate(
                "",
                xy=point(trial),
                xytext=point(parent),
                arrowprops={"arrowstyle": "->", "color": "0.8", "shrinkA": 4, "shrinkB": 4},
            )
    axes.scatter(*points(shown), color="tab:blue", zorder=3, label="trials")
    ordered = cheaper_is_worse(shown, cost)
    axes.step(*points(ordered), where="post", color="tab:blue", alpha=0.6, label="front of the two")
    winner = max(shown, key=lambda trial: (trial.mean_ap or 0, -trial.trial_id))
    axes.scatter(*points([winner]), marker="*", s=220, color="tab:green", zorder=4, label="winner")
    axes.annotate(
        winner.code, point(winner), textcoords="offset points", xytext=(0, 10), ha="right", fontsize=7
    )
    if baseline is not None and baseline.mean_ap is not None:
        axes.scatter(
            *points([baseline]),
            marker="D",
            s=60,
            color="tab:orange",
            zorder=4,
            label="start network, trained as long",
        )
    if budget is not None:
        axes.axvline(budget, color="tab:red", linestyle="--", label=f"budget {budget:g}")
    axes.set_xlabel(label)
    axes.set_ylabel("COCO mAP")
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(0.08, 0.15)  # room for the winner's code
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def cheaper_is_worse(trials: Sequence[Trial], cost: CostName) -> list[Trial]:
    """Those that are better than everything cheaper: the front in mAP and one cost alone."""
    chosen: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (getattr(t, cost), -(t.mean_ap or 0))):
        if not chosen or (trial.mean_ap or 0) > (chosen[-1].mean_ap or 0):
            chosen.append(trial)
    return chosen
