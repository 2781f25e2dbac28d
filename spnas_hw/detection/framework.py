"""mmdet and its companions, imported in one place: quietly, completely, and checked.

Import this module before anything is built from mmdet's registries.
"""

from __future__ import annotations

import contextlib
import io

from spnas_hw import remedies
from spnas_hw.errors import SpnasError

try:
    # mmdet prints about an optional package of its makers.
    with contextlib.redirect_stdout(io.StringIO()):
        import mmcv._ext  # noqa: F401
        import mmdet.datasets
        import mmdet.engine
        import mmdet.evaluation
        import mmdet.models
        import mmdet.visualization  # noqa: F401
        from mmengine.registry import init_default_scope
except ImportError as error:
    if error.name == "mmcv._ext" or "mmcv/_ext" in str(error.path or ""):
        raise SpnasError(f"mmcv's operators are missing or of another torch: {remedies.MMCV}") from error
    raise SpnasError(f"training needs {error.name or error}: {remedies.DETECTION}") from error

import spnas_hw.detection.backbone
import spnas_hw.detection.datasets.coco_dataset
import spnas_hw.detection.datasets.ecp_dataset
import spnas_hw.detection.metrics.coco
import spnas_hw.detection.metrics.lamr_metric
import spnas_hw.detection.metrics.voc  # noqa: F401  registers, as those before

init_default_scope("mmdet")
