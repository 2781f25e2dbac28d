"""The best of a search, measured whole before the winner is declared."""

from __future__ import annotations

from collections.abc import Callable

from profilers.backends import Backend
from profilers.errors import MeasurementFailed
from profilers.whole import ModelLatency
from spnas_hw.errors import ExportError, InvalidConfig, OverBudget
from spnas_hw.pipeline.benchmark import SLOWER, backend_of, measure_at_table_speed, not_comparable
from spnas_hw.pipeline.shipped import shipped, trained_detector
from spnas_hw.run import Run
from spnas_hw.search.journal import Trial, best_of_each
from spnas_hw.search.remeasured import Remeasured, Status, read_remeasured, write_remeasured


def check(run: Run) -> None:
    """Refuses at once what could not be measured. Raises InvalidConfig."""
    with backend_of(run) as backend:
        _require_comparable(run, backend)


def remeasure(
    run: Run, top: int, progress: Callable[[float, int], None] = lambda done, total: None
) -> list[Remeasured]:
    """Exports and measures the best `top` networks that have their weights, as the detectors that would be
    shipped; `Run.winner` is then the best that is within the budget by the clock.

    Raises:
        InvalidConfig: the table was not measured with what is here.
    """
    chosen = _best(run)[:top]
    rows = []
    with backend_of(run) as backend:
        _require_comparable(run, backend)
        for done, trial in enumerate(chosen, 1):
            rows.append(_measured(run, trial, backend))
            write_remeasured(run.folder, (read_remeasured(run.folder) | {trial.code: rows[-1]}).values())
            progress(done, len(chosen))
    return rows


def _require_comparable(run: Run, backend: Backend) -> None:
    if why := not_comparable(run, backend.describe(), run.precision):
        raise InvalidConfig(f"--remeasure cannot hold predictions against the clock: {why}")


def require_one(rows: list[Remeasured], limit_ms: float | None) -> None:
    """Raises OverBudget: none is within the budget, or none could be measured."""
    if not rows or any(row.status == "ok" for row in rows):
        return
    what = f"none of the best {len(rows)}"
    found = [row.measured_latency_ms for row in rows if row.measured_latency_ms is not None]
    if not found:
        raise OverBudget(f"{what} could be measured whole: measure more")
    raise OverBudget(
        f"{what} is within {limit_ms:g} ms when measured whole, the nearest takes {min(found):.3f} ms: "
        "measure more, or search with more headroom"
    )


def unmeasured(run: Run) -> str | None:
    """What a user should know where some were measured whole, and the best was not."""
    best = best_of_each(run.trials())
    measured = read_remeasured(run.folder)
    if not best or not measured or best[0].code in measured:
        return None
    return f"{best[0].code} came out better than what was measured whole, and was not: add --remeasure"


def _best(run: Run) -> list[Trial]:
    """Best first, each network once; what has no weights any more could not be shipped."""
    return best_of_each(trial for trial in run.trials() if run.has_weights(trial))


def _measured(run: Run, trial: Trial, backend: Backend) -> Remeasured:
    assert run.provenance is not None  # it was checked
    found: ModelLatency | None = None
    try:
        model = shipped(run, trained_detector(run, trial, run.trial_folder(trial)), run.precision)
        found = measure_at_table_speed(backend, model, run.provenance.reference_ms)
    except (ExportError, MeasurementFailed):
        pass  # one network that cannot be shipped is no reason not to measure the others
    assert trial.mean_ap is not None and trial.latency_ms is not None  # validated, with a table
    return Remeasured(
        arch=trial.code,
        mean_ap=trial.mean_ap,
        predicted_latency_ms=trial.latency_ms,
        measured_latency_ms=None if found is None else found.raw.median_ms,
        measured_p99_ms=None if found is None else found.raw.p99_ms,
        drift=None if found is None else found.drift,
        status=_status(found, run.budget.latency_ms),
    )


def _status(found: ModelLatency | None, limit_ms: float | None) -> Status:
    if found is None:
        return "failed"
    if limit_ms is None or found.raw.median_ms <= limit_ms:
        return "ok"
    return "disturbed" if found.drift > 1 + SLOWER else "over budget"
