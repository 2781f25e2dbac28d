"""EuroCity Persons in COCO's annotation format, for tools that read nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spnas_hw.detection.datasets.ecp import CLASSES, TIMES, find_frames, instance_of, read_frame


def coco_document(
    root: Path,
    split: str,
    *,
    min_height_px: float,
    times: Sequence[str] = TIMES,
    rider_includes_vehicle: bool = True,
    progress: Callable[[float, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The annotations of a split, by the rules of training.

    Images are named relative to `root`; categories are 1, pedestrian, and 2, rider; what is ignored is a
    crowd (`iscrowd` 1).

    Raises:
        DataError: there is no such split, or a label is missing or damaged.
    """
    frames = find_frames(root, split, times)
    images, annotations = [], []
    for number, paths in enumerate(frames, 1):
        frame = read_frame(paths.label)
        name = paths.image.relative_to(root).as_posix()
        images.append({"id": number, "file_name": name, "width": frame.width, "height": frame.height})
        for thing in frame.objects:
            found = instance_of(thing, min_height_px, rider_includes_vehicle)
            if found is None:
                continue
            x0, y0, x1, y1 = found["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": found["bbox_label"] + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": found["ignore_flag"],
                    "occlusion": thing.occlusion,
                    "truncation": thing.truncation,
                    "tags": list(thing.tags),
                }
            )
        progress(number, len(frames))
    categories = [{"id": label, "name": name} for label, name in enumerate(CLASSES, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}
