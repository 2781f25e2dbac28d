"""Trials for tests."""

from __future__ import annotations

from spnas_hw.search.journal import Trial


def trial(trial_id: int, code: str, mean_ap: float | None, **changes) -> Trial:
    fields = {
        "trial_id": trial_id,
        "phase": "serial",
        "code": code,
        "parent_id": None,
        "parent_code": None,
        "operator": "seed",
        "status": "failed" if mean_ap is None else "ok",
        "metrics": {} if mean_ap is None else {"mAP": mean_ap, "AP50": 2 * mean_ap},
        "latency_ms": 10.0 + trial_id,
        "latency_source": "predicted",
        "memory_mb": 20.0,
        "macs": 1000,
        "params": 100,
        "iterations": 50,
        "t_start": 1.0,
        "t_end": 3.5,
        "reason": "it failed" if mean_ap is None else None,
    }
    return Trial(**{**fields, **changes})
