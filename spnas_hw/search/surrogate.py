"""What the trials so far promise of an architecture that was not trained: a Gaussian process.

The features are what the arch code says, per stage: how many blocks, how wide, how many branches. Few
trials are enough to tell where width and depth pay, which is what decides among mutants of one parent.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from spnas_hw.search.history import History
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import Morphism

Array = npt.NDArray[np.float64]
STAGES_MAX = 8
LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (0.03, 0.1, 0.3, 1.0)
"""Length scales, and variances of the noise against that of the signal, of which the likeliest is taken."""
FEWEST_TRIALS = 4
"""With fewer, only the unlikeness to what was tried would count."""


def features(architecture: Architecture) -> Array:
    """A vector of fixed length; a stage that is not there has no blocks and the width of the last."""
    stages = architecture.stages[:STAGES_MAX]
    missing = STAGES_MAX - len(stages)
    widths = [np.log2(feature.channels) for feature in architecture.features()[:STAGES_MAX]]
    blocks = [np.log2(1 + len(stage.doubles)) for stage in stages]
    branches = [float(stage.branches) for stage in stages]
    kind = architecture.block.kind
    return np.array(
        [
            *blocks,
            *[0.0] * missing,
            *widths,
            *[widths[-1]] * missing,
            *branches,
            *[0.0] * missing,
            architecture.depth,
            len(stages),
            *(float(kind == other) for other in ("basic", "bottleneck", "resnext")),
        ]
    )


def most_promising(pool: Sequence[Morphism], history: History) -> Morphism:
    """The morphism whose child has the highest upper confidence bound of mAP; of equals the first."""
    trials = history.latest()
    seen = np.array([features(decode(trial.code)) for trial in trials])
    iterations = np.log2([[trial.iterations] for trial in trials])
    values = np.array([trial.mean_ap for trial in trials], dtype=float)
    asked = np.array([features(morphism.child) for morphism in pool])
    # All candidates as if trained equally long: what longer training gave is not their merit.
    level = np.full((len(pool), 1), iterations.max())
    mean, deviation = predict(np.hstack([seen, iterations]), values, np.hstack([asked, level]))
    return pool[int(np.argmax(mean + deviation))]


def predict(seen: Array, values: Array, asked: Array) -> tuple[Array, Array]:
    """Mean and standard deviation at `asked` [m, f] of a Gaussian process through `values` [n] at `seen`
    [n, f].

    Features and values are standardised; length scale and noise maximise the marginal likelihood
    (Rasmussen and Williams 2006, sections 2.2 and 5.4).
    """
    centre, scale = seen.mean(0), seen.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    seen, asked = (seen - centre) / scale, (asked - centre) / scale
    offset, spread = float(values.mean()), float(values.std()) or 1.0
    target = (values - offset) / spread
    best: tuple[float, float, Array, Array] | None = None
    for length, noise in product(LENGTHS, NOISES):
        covariance = _kernel(seen, seen, length) + noise * np.eye(len(seen))
        lower = np.linalg.cholesky(covariance)
        weights = np.linalg.solve(lower.T, np.linalg.solve(lower, target))
        # The signal's variance is profiled out: it is the mean of the whitened squares.
        variance = max(float(target @ weights) / len(target), 1e-12)
        likelihood = -len(target) / 2 * np.log(variance) - float(np.log(np.diag(lower)).sum())
        if best is None or likelihood > best[0]:
            across = _kernel(asked, seen, length)
            inside = np.linalg.solve(lower, across.T)
            left = np.maximum(1 - (inside**2).sum(0), 0) * variance
            best = likelihood, variance, across @ weights, np.sqrt(left)
    assert best is not None
    return offset + spread * best[2], spread * best[3]


def _kernel(a: Array, b: Array, length: float) -> Array:
    """Squared exponential of the mean squared difference, [n, f] x [m, f] -> [n, m]."""
    squares = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1) / a.shape[1]
    kernel: Array = np.exp(-squares / (2 * length**2))
    return kernel
