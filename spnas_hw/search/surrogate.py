"""What the trials so far promise of an architecture that was not trained: a Gaussian process.

The features are what the arch code says, per stage: how many blocks, how wide, how many branches of
which kind. Few trials are enough to tell where width and depth pay, which is what decides among mutants of
one parent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from spnas_hw.search.history import History
from spnas_hw.search.proposal import propose
from spnas_hw.space.architecture import Architecture
from spnas_hw.space.codec import decode
from spnas_hw.space.morphism import Morphism

Array = npt.NDArray[np.float64]
STAGES_MAX = 8
LENGTHS = (0.5, 1.0, 2.0, 4.0)
NOISES = (0.03, 0.1, 0.3, 1.0)
"""Length scales, and variances of the noise against that of the signal, of which the likeliest is taken."""
TRIALS_MAX = 400
"""The last so many trials are learnt from: the work grows with their cube."""
FEWEST_TRIALS = 4
"""With fewer, only the unlikeness to what was tried would count."""


def features(architecture: Architecture) -> Array:
    """A vector of fixed length; a stage that is not there has no blocks and the width of the last."""
    residuals = architecture.residuals()
    missing = STAGES_MAX - min(STAGES_MAX, len(architecture.stages))
    ends = [np.log2(feature.channels) for feature in architecture.features()[:STAGES_MAX]]
    # Where in its stage a doubling stands shows in the mean width of the stage's blocks.
    means = [
        float(np.mean([np.log2(r.planes) for r in residuals if r.stage == index]))
        for index in range(STAGES_MAX - missing)
    ]
    stages = architecture.stages[:STAGES_MAX]
    block = architecture.block
    return np.array(
        [
            *(np.log2(1 + len(stage.doubles)) for stage in stages),
            *[0.0] * missing,
            *ends,
            *[ends[-1]] * missing,
            *means,
            *[means[-1]] * missing,
            *(float(stage.branches) for stage in stages),
            *[0.0] * missing,
            *(float(stage.branches * stage.own_weights) for stage in stages),
            *[0.0] * missing,
            architecture.depth,
            len(architecture.stages),
            np.log2(block.inner_width(architecture.base_channels)),
            np.log2(block.groups),
            *(float(block.kind == other) for other in ("basic", "bottleneck", "resnext")),
        ]
    )


def chosen(
    draw: Callable[[], Morphism],
    objections: Callable[[Morphism], tuple[str, ...]],
    candidates: int,
    history: History,
) -> Morphism:
    """The most promising of so many draws without objections; the first one until there are trials to learn
    from. Raises SpaceExhausted."""
    enough = len(history.validated()) >= FEWEST_TRIALS
    pool = [propose(draw, objections) for _ in range(candidates if enough else 1)]
    return pool[0] if len(pool) == 1 else most_promising(pool, history)


def most_promising(pool: Sequence[Morphism], history: History) -> Morphism:
    """The morphism whose child has the highest upper confidence bound of mAP; of equals the first."""
    trials = history.validated()[-TRIALS_MAX:]
    seen = np.array([features(decode(trial.code)) for trial in trials])
    iterations = np.log2([[1 + trial.iterations] for trial in trials])
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
    inner, across = _squares(seen, seen), _squares(asked, seen)
    best: tuple[float, float, float, float] | None = None
    for length, noise in product(LENGTHS, NOISES):
        lower = np.linalg.cholesky(_kernel(inner, length) + noise * np.eye(len(seen)))
        whitened = np.linalg.solve(lower, target)
        # The signal's variance is profiled out: it is the mean of the whitened squares.
        variance = max(float(whitened @ whitened) / len(target), 1e-12)
        likelihood = -len(target) / 2 * np.log(variance) - float(np.log(np.diag(lower)).sum())
        if best is None or likelihood > best[0]:
            best = likelihood, variance, length, noise
    assert best is not None
    _, variance, length, noise = best
    lower = np.linalg.cholesky(_kernel(inner, length) + noise * np.eye(len(seen)))
    toward = _kernel(across, length)
    mean = toward @ np.linalg.solve(lower.T, np.linalg.solve(lower, target))
    inside = np.linalg.solve(lower, toward.T)
    left = np.maximum(1 - (inside**2).sum(0), 0) * variance
    return offset + spread * mean, spread * np.sqrt(left)


def _squares(a: Array, b: Array) -> Array:
    """Mean squared differences, [n, f] x [m, f] -> [n, m]."""
    squares: Array = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.maximum(squares, 0) / a.shape[1]


def _kernel(squares: Array, length: float) -> Array:
    kernel: Array = np.exp(-squares / (2 * length**2))
    return kernel
