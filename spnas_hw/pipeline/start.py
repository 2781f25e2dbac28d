"""What a search begins with, and whether it can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from spnas_hw.config import SearchConfig
from spnas_hw.errors import InvalidConfig, RunError
from spnas_hw.pipeline.search import copy_trial
from spnas_hw.run import JOURNAL, WEIGHTS, Run
from spnas_hw.search.journal import Journal, Phase, Trial, ranked, read_journal, write_views
from spnas_hw.space.codec import decode


def phases_of(config: SearchConfig, only: Phase | None) -> list[Phase]:
    """The phases of a search, in order: both where the configuration has settings for both."""
    if only is not None:
        return [only]
    return ["serial"] if config.parallel is None else ["serial", "parallel"]


def check(run: Run, resume: bool, phases: Sequence[Phase], this_start: bool = False) -> None:
    """Refuses at once what could not end well.

    Args:
        this_start: the search must begin with the configured start, not with a smaller one that fits.

    Raises:
        InfeasibleBudget: no architecture can meet the budget.
        InvalidConfig: the detector has other classes than the data; the start is no network to begin with; a
            phase lacks its settings, or the rows of the table that it needs.
        RunError: the folder holds a search and not `resume`, or none and `resume`.
    """
    from spnas_hw.detection.datasets import require_classes
    from spnas_hw.detection.reignition import require_splits

    require_classes(run.config.dataset, run.config.detector.classes)
    if this_start or "serial" not in phases or not decode(run.config.start).is_serial:
        _require_start(run, phases)
    else:
        run.start()
    if "parallel" in phases:
        _require_parallel(run)
    if run.config.serial.reignitions and run.config.reignition is not None:
        require_splits(run.config.reignition.images)
    exists = (run.folder / JOURNAL).exists()
    if exists and not resume:
        raise RunError(f"{run.folder} already holds a search: add --resume, or choose another --run")
    if resume and not exists:
        raise RunError(f"{run.folder} holds no search to resume: leave --resume out")


def _require_start(run: Run, phases: Sequence[Phase]) -> None:
    code = run.config.start
    start = decode(code)
    found = run.objections(start)
    if "serial" in phases:  # sub-networks may stand on any network
        found = found or run.config.space.violations(start)
    if not start.is_serial:
        found = ("it has sub-networks already, give the serial network under them",)
    if found:
        advice = ": profile a configuration whose space has it" if found[0].startswith("unmeasured") else ""
        raise InvalidConfig(f"the search cannot start from {code}: {found[0]}{advice}")


def _require_parallel(run: Run) -> None:
    if run.config.parallel is None:
        raise InvalidConfig("the configuration has no key parallel, which the parallel phase needs")
    if run.costs is not None and not any(key.startswith("connection-") for key in run.costs):
        raise InvalidConfig(
            f"{run.table_folder} has no connections of sub-networks, which the parallel phase needs: "
            "profile again, or search with --phase serial"
        )


def adopt(run: Run, source: Path) -> Trial:
    """Makes the best serial network of another run, with its weights, the first trial of a new one; a run
    that has trials is left as it is.

    Raises:
        RunError: there is no such run, it has no serial network, or its weights are gone.
        InvalidConfig: its mAP or weights mean nothing here, or it is over this run's budget.
    """
    best, other = best_serial(source), Run.open(source)
    for name in ("detector", "dataset", "size"):
        if getattr(other.config, name) != getattr(run.config, name):
            raise InvalidConfig(
                f"{source} was searched with another {name}: give its code, {best.code}, to train it anew"
            )
    journal = Journal(run.folder / JOURNAL, run.header())
    if journal.trials:
        return journal.trials[0]
    weights = other.trial_folder(best)
    if not other.has_weights(best):
        raise RunError(f"{weights / WEIGHTS} is missing: the weights of {best.code} were removed")
    copy_trial(weights, run.folder / "trials" / "0000")
    cost = run.price(decode(best.code))
    adopted = replace(
        best,
        **{name: getattr(cost, name) for name in ("latency_ms", "memory_mb", "macs", "params")},
        trial_id=0,
        parent_id=None,
        parent_code=None,
        operator="seed",
        phase="serial",
        latency_source=None if cost.latency_ms is None else run.latency_source,
        rung=0,
        why=f"trial {best.trial_id} of {source}",
    )
    journal.append(adopted)
    write_views(journal.trials, run.folder)
    return adopted


def run_named(start: str) -> Path | None:
    """The run folder that `start` means, perhaps one that is not there; None: it is an architecture code."""
    path = Path(start)
    return path if path.is_dir() or path.name != start else None


def best_serial(source: Path) -> Trial:
    """The best trial without sub-networks of a run. Raises RunError."""
    best = ranked(trial for trial in read_journal(source / JOURNAL)[1] if decode(trial.code).is_serial)
    if not best:
        raise RunError(f"{source} has no validated serial network to start from")
    return best[0]
