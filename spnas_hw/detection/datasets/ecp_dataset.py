"""EuroCity Persons, real or synthetic, as an mmdet data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS

from spnas_hw.detection.datasets.ecp import CLASSES, TIMES, find_frames, instance_of, read_frame


@DATASETS.register_module()
class EuroCityPersons(BaseDetDataset):
    """Pedestrians and riders; what the protocol ignores is an ignore region (`ignore_flag` 1).

    Ignored are groups far away, depictions of single persons, persons below `min_height_px` and those
    occluded or truncated by more than 80 %. Sitting or lying ones and those behind glass are trained on.

    Args:
        split: `train`, `val` or `test`.
        times: times of day, of `day` and `night`.
        min_height_px: smaller persons are ignored (20 in the protocol, at 1024 pixels high).
        rider_includes_vehicle: riders are boxed with their vehicle, as they are evaluated.
    """

    METAINFO = {"classes": CLASSES, "palette": [(60, 180, 75), (255, 200, 0)]}  # noqa: RUF012 mmengine's form

    def __init__(
        self,
        *args: Any,
        split: str,
        times: Sequence[str] = TIMES,
        min_height_px: float,
        rider_includes_vehicle: bool = True,
        **kwargs: Any,
    ) -> None:
        self.split, self.times = split, tuple(times)
        self.min_height_px, self.rider_includes_vehicle = min_height_px, rider_includes_vehicle
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """One entry an image. Raises DataError."""
        entries = []
        for index, paths in enumerate(find_frames(Path(self.data_root), self.split, self.times)):
            frame = read_frame(paths.label)
            instances = [
                instance_of(thing, self.min_height_px, self.rider_includes_vehicle) for thing in frame.objects
            ]
            entries.append(
                {
                    "img_path": str(paths.image),
                    "img_id": index,
                    "width": frame.width,
                    "height": frame.height,
                    "instances": [instance for instance in instances if instance is not None],
                }
            )
        return entries
