"""The best of a search, measured whole before the winner is declared."""

from __future__ import annotations

from collections.abc import Callable

from profilers.whole import ModelLatency
from spnas_hw.errors import InvalidConfig, OverBudget
from spnas_hw.pipeline.benchmark import backend_of, measure_at_table_speed, not_comparable
from spnas_hw.pipeline.shipped import shipped
from spnas_hw.run import WEIGHTS, Run
from spnas_hw.search.journal import Trial, best_of_each
from spnas_hw.search.remeasured import Remeasured, read_remeasured, write_remeasured


def check(run: Run) -> None:
    """Refuses at once what could not be measured. Raises InvalidConfig."""
    with backend_of(run) as backend:
        if why := not_comparable(run, backend.describe(), run.precision):
            raise InvalidConfig(f"--remeasure cannot hold predictions against the clock: {why}")


def remeasure(
    run: Run, top: int, progress: Callable[[float, int], None] = lambda done, total: None
) -> list[Remeasured]:
    """Exports and measures the best `top` networks that have their weights, as the detectors that would be
    shipped. `Run.winner` passes over those that are above the budget.

    Raises:
        InvalidConfig: the table was not measured with what is here.
        OverBudget: none of them is within the budget; what was measured is kept.
    """
    check(run)
    chosen = _best(run)[:top]
    rows = []
    with backend_of(run) as backend:
        assert run.provenance is not None  # it was checked
        for done, trial in enumerate(chosen, 1):
            weights = run.folder / "trials" / f"{trial.trial_id:04d}"
            model = shipped(run, trial, weights, run.precision)
            found = measure_at_table_speed(backend, model, run.provenance.reference_ms)
            rows.append(_row(trial, found, run.budget.latency_ms))
            write_remeasured(run.folder, (read_remeasured(run.folder) | {trial.code: rows[-1]}).values())
            progress(done, len(chosen))
    if rows and all(row.status != "ok" for row in rows):
        nearest = min(row.measured_latency_ms for row in rows)
        raise OverBudget(
            f"none of the best {len(rows)} is within {run.budget.latency_ms:g} ms when measured whole, the "
            f"nearest takes {nearest:.3f} ms: search with more headroom"
        )
    return rows


def _best(run: Run) -> list[Trial]:
    """Best first, each network once; what has no weights any more could not be shipped."""
    trials = run.folder / "trials"
    return best_of_each(t for t in run.trials() if (trials / f"{t.trial_id:04d}" / WEIGHTS).exists())


def _row(trial: Trial, found: ModelLatency, limit_ms: float | None) -> Remeasured:
    measured_ms = found.raw.median_ms
    assert trial.mean_ap is not None and trial.latency_ms is not None  # validated, with a table
    return Remeasured(
        arch=trial.code,
        mean_ap=trial.mean_ap,
        predicted_latency_ms=trial.latency_ms,
        measured_latency_ms=measured_ms,
        measured_p99_ms=found.raw.p99_ms,
        drift=found.drift,
        status="ok" if limit_ms is None or measured_ms <= limit_ms else "over budget",
    )
