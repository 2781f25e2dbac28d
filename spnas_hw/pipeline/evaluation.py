"""How good a trained network is: of a run in PyTorch, of a bundle in a runtime; the same code for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profilers.backends import Backend
from spnas_hw.config import Dataset, SearchConfig, build, find_config, read_yaml
from spnas_hw.cost.workload import Size
from spnas_hw.errors import InvalidConfig, RunError
from spnas_hw.export.bundle import METADATA, read_bundle
from spnas_hw.pipeline.benchmark import bundle_session, exported_detections
from spnas_hw.pipeline.shipped import trained_detector, weights_of
from spnas_hw.run import JOURNAL, Run

if TYPE_CHECKING:
    from spnas_hw.detection.evaluation import Detect


@dataclass(frozen=True)
class Network:
    """What is evaluated: `code` on images of `size` (height, width), its `classes` in the order of labels."""

    code: str
    classes: tuple[str, ...]
    size: Size
    dataset: Dataset | None
    """The run's own."""


@dataclass(frozen=True)
class Evaluated:
    """What was found. `metrics` are fractions of 1, None without labels; `folder` holds the detections."""

    code: str
    images: int
    detections: int
    metrics: dict[str, float | None] | None
    folder: Path | None


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle; False: it is a run. Raises RunError: it is neither."""
    if (folder / METADATA).is_file():
        return True
    if (folder / JOURNAL).is_file():
        return False
    raise RunError(f"{folder} is neither a run nor a bundle: it has neither {JOURNAL} nor {METADATA}")


def network_of(folder: Path, baseline: bool, fully_trained: bool) -> Network:
    """The network in a bundle, or of a run. Raises RunError, ExportError."""
    if is_bundle(folder):
        if baseline or fully_trained:
            raise InvalidConfig(f"{folder} is a bundle, which holds one network: leave the option out")
        about = read_bundle(folder)
        _, _, height, width = about["input"]["shape"]
        return Network(about["code"], tuple(about["classes"]), (height, width), None)
    run = Run.open(folder)
    trial, _ = weights_of(run, baseline, fully_trained)
    config: SearchConfig = run.config
    return Network(trial.code, config.detector.classes, config.size, config.dataset)


def dataset_named(name: str | None, network: Network) -> Dataset:
    """A data set by its name in `configs/datasets` or its file; None: the run's own.

    Raises:
        InvalidConfig: there is none, or it has other classes than the network.
    """
    from spnas_hw.detection.datasets import require_classes

    if name is not None:
        dataset = build(Dataset, read_yaml(find_config(name, "datasets")), name)
    elif network.dataset is not None:
        dataset = network.dataset
    else:
        raise InvalidConfig("a bundle knows no data: give --dataset")
    require_classes(dataset, network.classes)
    return dataset


def evaluate(
    folder: Path,
    network: Network,
    dataset: Dataset,
    split: str,
    backend: Backend | None,
    *,
    baseline: bool = False,
    fully_trained: bool = False,
    limit: int | None = None,
    out: Path | None = None,
    progress: Callable[[float, int], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda text: None,
) -> Evaluated:
    """Detects in every image of a split, and tells the metrics of the data set.

    Args:
        folder: of the run or bundle that `network` was taken from.
        backend: what runs a bundle's engine, or its ONNX; of a run it is None: PyTorch.
        limit: only so many images, the first ones.
        out: where the detections are written, as the benchmark takes them.

    Raises:
        DataError: images or labels are missing or damaged; `out` is there already.
    """
    if backend is None:
        from spnas_hw.detection.inference import detect

        run = Run.open(folder)
        trial, weights = weights_of(run, baseline, fully_trained)
        model = trained_detector(run, trial, weights)
        return _evaluate(network, dataset, split, lambda image: detect(model, image), limit, out, progress)
    with backend:
        session, why = bundle_session(folder, read_bundle(folder), backend)
        if why:
            note(why)
        try:
            return _evaluate(
                network,
                dataset,
                split,
                lambda image: exported_detections(session.run({"image": image})),
                limit,
                out,
                progress,
            )
        finally:
            session.close()


def _evaluate(
    network: Network,
    dataset: Dataset,
    split: str,
    detect: Detect,
    limit: int | None,
    out: Path | None,
    progress: Callable[[float, int], None],
) -> Evaluated:
    from spnas_hw.detection.datasets.submission import require_free, write_submission
    from spnas_hw.detection.evaluation import Metrics, detections, images_of

    if out is not None:
        require_free(out)
    images = images_of(dataset, split)[:limit]
    labelled = all(image.info is not None for image in images)
    metrics = Metrics(dataset, network.classes, images[0]) if labelled else None
    found: list[tuple[Path, Any, Any]] = []
    count = 0
    for image, detected, size in detections(images, network.size, detect, progress):
        count += len(detected.scores)
        if metrics is not None:
            metrics.add(image, detected, size)
        if out is not None:
            found.append((image.path, image.info and image.info["img_id"], detected))
    told = None if metrics is None else metrics.all()
    if out is not None:
        write_submission(out, dataset, split, network.classes, found)
    return Evaluated(network.code, len(images), count, told, out)
