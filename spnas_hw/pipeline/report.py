"""A run in one figure and one table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spnas_hw.errors import ExportError
from spnas_hw.export.bundle import read_bundle
from spnas_hw.run import Run
from spnas_hw.search.journal import Trial
from spnas_hw.search.remeasured import read_remeasured


def report(run: Run) -> tuple[Path, list[dict[str, Any]]]:
    """Draws `report.png` in the run folder, against MACs where the run has no latency table; returns its
    path, and baseline and winner in numbers."""
    from spnas_hw.report.figures import cost_figure

    winner, baseline = run.winner(), run.baseline()
    path, size = run.folder / "report.png", f"{run.config.input_height}x{run.config.input_width}"
    about = run.provenance
    if about is None:
        cost_figure(
            path,
            run.trials(),
            cost="macs",
            label="multiply-accumulates of the whole detector",
            budget=run.budget.macs,
            baseline=baseline,
            title=size,
        )
    else:
        source = "estimated from data sheets" if about.estimated else "predicted from the table"
        cost_figure(
            path,
            run.trials(),
            cost="latency_ms",
            label=f"latency of the whole detector, {source} (ms)",
            budget=run.budget.latency_ms,
            baseline=baseline,
            title=f"{about.device}, {about.runtime}, {size}, {run.precision}",
        )
    rows = [_row(run, "winner", winner, run.folder / "bundle")]
    if baseline is not None:
        rows.insert(0, _row(run, "baseline", baseline, run.folder / "baseline" / "bundle"))
    return path, rows


def _row(run: Run, name: str, trial: Trial, bundle: Path) -> dict[str, Any]:
    measured_ms, drift = _measured(run, trial, bundle)
    return {
        "name": name,
        "code": trial.code,
        "mAP": trial.mean_ap,
        "AP50": trial.metrics.get("AP50"),
        "predicted_latency_ms": trial.latency_ms,
        "measured_latency_ms": measured_ms,
        "drift": drift,
        "budget_latency_ms": run.budget.latency_ms,
        "macs": trial.macs,
        "params": trial.params,
        "iterations": trial.iterations,
    }


def _measured(run: Run, trial: Trial, bundle: Path) -> tuple[float | None, float | None]:
    """Latency in ms of the trial's whole detector and the device's drift, where it was measured on what the
    budget is for: of its bundle, or as one of the best."""
    about = _bundle(bundle)
    if about is not None:
        latency = about["latency"]
        # A search that went on may have another winner than the one that was exported.
        wanted = (trial.code, trial.iterations, run.precision)
        if (about["code"], about["iterations"], about["precision"]) == wanted and latency["on_target"]:
            return latency["clock"]["median_ms"], latency["drift"]
    found = read_remeasured(run.folder).get(trial.code)
    return (None, None) if found is None else (found.measured_latency_ms, found.drift)


def _bundle(folder: Path) -> dict[str, Any] | None:
    """The metadata of a bundle, or None: there is none, or none that tells what is in it."""
    try:
        return read_bundle(folder)
    except ExportError:
        return None
