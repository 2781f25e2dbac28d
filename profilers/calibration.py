"""Costs corrected by whole networks: what a workload costs among all the others, not in a short chain.

A few whole networks are measured beside the chains. Each is the sum of its workloads, but for noise; each
workload's cost in a whole network is its cost in a chain, but for what additivity leaves open (caches that
hold more or less, kernels that fuse or not). Both are normal with known spread, so the most probable
corrections are a ridge regression.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_COST_SPREAD = 0.10  # standard deviation of a cost among others, relative to its cost in a chain
_NOISE = 0.01  # standard deviation of the latency of a whole network, relative


@dataclass(frozen=True)
class Calibration:
    """Corrections by workload key, in the unit of the costs; empty where nothing could be fitted.

    The errors are mean absolute relative errors over the whole networks, as fractions of 1: of the plain
    sums, and of the corrected ones with the network in question left out.
    """

    corrections: Mapping[str, float]
    networks: int = 0
    error_of_sums: float | None = None
    error_left_out: float | None = None


def calibration(
    costs: Mapping[str, float], wholes: Sequence[tuple[Collection[str], float]], least: int = 3
) -> Calibration:
    """Fit corrections.

    Args:
        costs: marginal cost of each workload.
        wholes: for each whole network its workloads, as often as they occur, and its latency in the same
            unit. Those with a workload that has no cost are left out.
        least: with fewer whole networks than this nothing is corrected.
    """
    usable = [(terms, latency) for terms, latency in wholes if all(key in costs for key in terms)]
    if len(usable) < least:
        return Calibration({})
    keys = sorted({key for terms, _ in usable for key in terms})
    latency = np.array([value for _, value in usable])
    # Share of each workload in each network.
    shares = np.array([[list(terms).count(key) * costs[key] for key in keys] for terms, _ in usable])
    shares /= latency[:, None]
    residual = 1 - shares.sum(axis=1)
    spread = _COST_SPREAD**2 * shares.T
    gain = spread @ np.linalg.inv(shares @ spread + _NOISE**2 * np.eye(len(usable)))
    factors = gain @ residual
    hat = np.diag(shares @ gain)
    left_out = (residual - shares @ factors) / (1 - hat)
    return Calibration(
        {key: float(factor * costs[key]) for key, factor in zip(keys, factors, strict=True)},
        len(usable),
        float(np.abs(residual).mean()),
        float(np.abs(left_out).mean()),
    )
