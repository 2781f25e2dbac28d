"""Two detectors side by side."""

from __future__ import annotations

from collections.abc import Iterable

from spnas_hw.export.parity import Array, Comparison, Detect, Parity


def parity(images: Iterable[Array], reference: Detect, exported: Detect, score_threshold: float) -> Parity:
    """What a comparison finds on images."""
    comparison = Comparison(score_threshold)
    for image in images:
        comparison.add(reference(image), exported(image))
    return comparison.parity()
