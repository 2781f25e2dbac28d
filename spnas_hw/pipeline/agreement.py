"""Whether an exported detector does what the trained one does, on images of its data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spnas_hw.config import Dataset
from spnas_hw.cost.workload import Size
from spnas_hw.errors import ExportError
from spnas_hw.export.parity import CLOSE, EXACT, Comparison, Detect, Detections, Parity

if TYPE_CHECKING:
    pass

AGREEMENT = 0.999
"""Of the detections in FLOAT32 that have a partner in PyTorch."""
METRIC_ERROR = 1e-4
"""At most, of every metric in FLOAT32."""
SCORE_THRESHOLD = 0.05


@dataclass(frozen=True)
class Agreement:
    """One runtime beside PyTorch on the same images: its detections, exactly and with the tolerance for
    fewer bits, and the metrics of both."""

    exact: Parity
    close: Parity
    metrics: dict[str, float | None]
    reference_metrics: dict[str, float | None]

    @property
    def metric_error(self) -> float:
        """The largest difference of a metric."""
        return max(
            abs((value or 0.0) - (self.reference_metrics[name] or 0.0))
            for name, value in self.metrics.items()
        )

    def require_equal(self, runtime: str) -> None:
        """Raises ExportError where this is no rounding any more."""
        parity, share = self.exact, self.exact.agreement
        if share is not None and share < AGREEMENT:
            raise ExportError(
                f"only {parity.matched} of {parity.detections} detections of the exported detector agree "
                f"with PyTorch in {runtime} on {parity.images} images; {AGREEMENT:.1%} are needed"
            )
        if self.metric_error > METRIC_ERROR:
            raise ExportError(
                f"the exported detector's metrics differ from PyTorch's by {self.metric_error:.1e} in "
                f"{runtime} on {parity.images} images; {METRIC_ERROR:g} is allowed"
            )

    def document(self) -> dict[str, Any]:
        """As plain data."""
        return {
            **{name: _document(getattr(self, name)) for name in ("exact", "close")},
            "tolerances": {"exact": asdict(EXACT), "close": asdict(CLOSE)},
            "metrics": self.metrics,
            "metric_error": self.metric_error,
        }


@dataclass(frozen=True)
class Sample:
    """An image [H, W, 3] uint8 RGB of the input's size, with something to detect, and what was detected."""

    picture: NDArray[np.uint8]
    detections: Detections


def compare(
    reference: Detect,
    runtimes: Mapping[str, Detect],
    dataset: Dataset,
    classes: tuple[str, ...],
    size: Size,
    limit: int | None,
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> tuple[dict[str, Agreement], Sample]:
    """Runs all on the first `limit` validation images (None: all of them).

    Args:
        reference: the trained detector.
        runtimes: the exported one, by what runs it; the last is the one to be shipped, whose detections are
            those of the sample.

    Raises:
        DataError: an image or label is missing or damaged, or there is nothing to detect in any of them.
    """
    from spnas_hw.detection.evaluation import Metrics, images_of, in_picture
    from spnas_hw.detection.inference import load_image, normalised, scaled

    images = images_of(dataset, "val")[:limit]
    metrics = {name: Metrics(dataset, classes, images[0]) for name in ("", *runtimes)}
    exact = {name: Comparison(SCORE_THRESHOLD, EXACT) for name in runtimes}
    close = {name: Comparison(SCORE_THRESHOLD, CLOSE) for name in runtimes}
    sample, most = None, -1
    for done, image in enumerate(images, 1):
        loaded = load_image(image.path)
        picture = scaled(loaded, size)
        tensor = normalised(picture)
        found = {"": reference(tensor)} | {name: detect(tensor) for name, detect in runtimes.items()}
        for name in runtimes:
            exact[name].add(found[""], found[name])
            close[name].add(found[""], found[name])
        for name, one in found.items():
            metrics[name].add(image, in_picture(one, loaded.shape[:2], size), loaded.shape[:2])
        if (number := int((found[""][1] > SCORE_THRESHOLD).sum())) > most:
            sample, most = Sample(picture, list(found.values())[-1]), number
        progress(done, len(images))
    assert sample is not None
    told = {name: one.all() for name, one in metrics.items()}
    return {
        name: Agreement(exact[name].parity(), close[name].parity(), told[name], told[""]) for name in runtimes
    }, sample


def sample_of(path: Path, detect: Detect, size: Size) -> Sample:
    """A picture of one's own. Raises DataError."""
    from spnas_hw.detection.inference import load_image, normalised, scaled

    picture = scaled(load_image(path), size)
    return Sample(picture, detect(normalised(picture)))


def _document(parity: Parity) -> dict[str, Any]:
    return {**asdict(parity), "agreement": parity.agreement}
