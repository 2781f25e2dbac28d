"""COCO as an mmdet data set that does not print."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS


@DATASETS.register_module()
class Coco(CocoDataset):
    """mmdet's own, whose reader tells stdout what it loads."""

    def load_data_list(self) -> list[dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):
            return list(super().load_data_list())
