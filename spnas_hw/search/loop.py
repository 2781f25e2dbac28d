"""The loop that joins a searcher, an evaluator and the journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from spnas_hw.cost.composition import Cost
from spnas_hw.errors import RunError, TrainingError
from spnas_hw.search.journal import Journal, LatencySource, Phase, Trial
from spnas_hw.search.proposal import Proposal
from spnas_hw.search.searcher import Searcher
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import encode


@dataclass(frozen=True)
class Evaluation:
    """What training a candidate gave: metrics as fractions of 1, and the iterations it took."""

    metrics: dict[str, float | None]
    iterations: int


Evaluator: TypeAlias = Callable[[Proposal, int, int | None], Evaluation]
"""(proposal, trial_id, parent's trial_id or None) -> Evaluation; raises TrainingError."""


def run(
    searcher: Searcher,
    evaluate: Evaluator,
    journal: Journal,
    *,
    price: Callable[[Architecture], Cost],
    max_sample: int,
    seed: int,
    phase: Phase = "serial",
    latency_source: LatencySource = "predicted",
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> None:
    """Searches until the journal holds `max_sample` trials of the phase; those it has are told, not repeated.

    Trial i draws from a generator of (seed, i), so a resumed search proposes what the uninterrupted one
    would have. A candidate that fails to train becomes a failed trial and the search goes on.

    Raises:
        SpaceExhausted, RunError: from the searcher.
    """
    told = [trial for trial in journal.trials if trial.phase == phase]
    for trial in told:
        searcher.tell(trial)
    # A start that failed is tried again, however few trials there may be.
    wanted = max(max_sample - len(told), 0 if any(trial.status == "ok" for trial in journal.trials) else 1)
    for _ in range(wanted):
        trial_id = len(journal.trials)
        proposal = searcher.ask(np.random.default_rng([seed, trial_id]))
        trial = _try(proposal, trial_id, evaluate, journal, price, phase, latency_source)
        journal.append(trial)
        searcher.tell(trial)
        on_trial(trial)
        if not any(earlier.status == "ok" for earlier in journal.trials):
            raise RunError(f"the start network could not be trained: {trial.reason}; --resume tries again")


def _try(
    proposal: Proposal,
    trial_id: int,
    evaluate: Evaluator,
    journal: Journal,
    price: Callable[[Architecture], Cost],
    phase: Phase,
    latency_source: LatencySource,
) -> Trial:
    """Trains and validates a candidate; a failure is a trial, too."""
    latest = {trial.code: trial for trial in journal.trials if trial.status == "ok"}
    parent = latest.get(encode(proposal.morphism.parent))
    found = price(proposal.child)
    t_start = time.time()
    reason, evaluation = None, Evaluation({}, 0)
    try:
        evaluation = evaluate(proposal, trial_id, parent.trial_id if parent else None)
    except TrainingError as error:
        reason = str(error)
    return Trial(
        trial_id=trial_id,
        phase=phase,
        code=encode(proposal.child),
        parent_id=parent.trial_id if parent else None,
        parent_code=parent.code if parent else None,
        operator=proposal.operator if parent else "seed",
        status="failed" if reason else "ok",
        metrics=evaluation.metrics,
        latency_ms=found.latency_ms,
        latency_source=None if found.latency_ms is None else latency_source,
        memory_mb=found.memory_mb,
        macs=found.macs,
        params=found.params,
        iterations=evaluation.iterations + (parent.iterations if parent else 0),
        t_start=t_start,
        t_end=time.time(),
        rung=proposal.rung,
        why=proposal.why,
        reason=reason,
    )
