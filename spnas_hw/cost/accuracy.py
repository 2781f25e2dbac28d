"""How good predictions of latency are, in the measures that papers on latency predictors report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, spearmanr

from spnas_hw.cost.workload import Workload


@dataclass(frozen=True)
class Accuracy:
    """Relative errors are (predicted - measured) / measured, as fractions of 1."""

    count: int
    mape: float  # mean of the absolute relative error
    rmspe: float  # root of the mean squared relative error
    bias: float  # mean relative error
    within_5: float  # part of the networks whose error is at most 5 %
    within_10: float
    worst: float  # largest absolute relative error
    spearman: float
    kendall: float


def accuracy(predicted: ArrayLike, measured: ArrayLike) -> Accuracy:
    """Raises ValueError: fewer than three networks, or latencies that are not positive."""
    found, truth = (np.asarray(values, dtype=np.float64) for values in (predicted, measured))
    if found.size != truth.size or truth.size < 3 or not np.all(truth > 0):
        raise ValueError(f"accuracy needs at least 3 pairs of positive latencies, not {truth.size}")
    error = found / truth - 1
    size = np.abs(error)
    return Accuracy(
        count=int(truth.size),
        mape=float(size.mean()),
        rmspe=float(np.sqrt(np.square(error).mean())),
        bias=float(error.mean()),
        within_5=float((size <= 0.05).mean()),
        within_10=float((size <= 0.10).mean()),
        worst=float(size.max()),
        spearman=float(spearmanr(found, truth).statistic),
        kendall=float(kendalltau(found, truth).statistic),
    )


def fitted_line(x: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """Predictions a + b x of least squared relative error, fitted on all that they predict."""
    values, truth = (np.asarray(v, dtype=np.float64) for v in (x, measured))
    basis = np.stack([np.ones_like(values), values / np.abs(values).max()], axis=1)
    weights = np.linalg.lstsq(basis / truth[:, None], np.ones_like(truth), rcond=None)[0]
    return np.asarray(basis @ weights)


@dataclass(frozen=True)
class Attribution:
    """How much one workload's cost would have to grow for the predictions to fit better."""

    key: str
    occurrences: int  # in all networks together
    cost_ms: float
    correction_ms: float  # of one occurrence


def attribution(
    networks: Sequence[Sequence[Workload]], costs: dict[str, float], residual_ms: ArrayLike
) -> list[Attribution]:
    """Which workloads the errors come from, the most responsible first.

    The residuals, measured - predicted, are explained by corrections in proportion to each workload's cost:
    ridge regression, so that workloads that always occur together share what is theirs.
    """
    keys = sorted({load.key for loads in networks for load in loads})
    counts = np.array([[sum(load.key == key for load in loads) for key in keys] for loads in networks])
    scale = np.array([max(abs(costs[key]), 1e-6) for key in keys])
    parts = counts * scale  # ms of each workload in each network
    residual = np.asarray(residual_ms, dtype=np.float64)
    damping = 0.05 * np.square(parts.sum(axis=1)).mean()
    factors = np.linalg.solve(parts.T @ parts + damping * np.eye(len(keys)), parts.T @ residual)
    weight = np.abs(factors) * parts.sum(axis=0)
    return [
        Attribution(keys[i], int(counts[:, i].sum()), costs[keys[i]], float(factors[i] * scale[i]))
        for i in np.argsort(-weight)
    ]
