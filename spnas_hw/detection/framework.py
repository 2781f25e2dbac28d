"""mmdet and its companions, imported in one place: quietly, completely, and checked.

Import this module before anything is built from mmdet's registries.
"""

from __future__ import annotations

import contextlib
import io

from spnas_hw.errors import SpnasError

MMCV_COMMAND = (
    "pip install --no-build-isolation --no-binary onedl-mmcv --force-reinstall --no-deps onedl-mmcv"
)
DETECTION_COMMAND = (
    "make setup (or pip install torch, then pip install --no-build-isolation onedl-mmcv, spnas-hw[detection])"
)

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
except ModuleNotFoundError as error:
    if error.name == "mmcv._ext":
        raise SpnasError(
            f"mmcv was installed without its compiled operators: with torch installed, {MMCV_COMMAND}"
        ) from error
    raise SpnasError(f"{error.name} is missing, and training needs it: {DETECTION_COMMAND}") from error

import spnas_hw.detection.backbone  # noqa: E402  registers SPNet
import spnas_hw.detection.datasets.ecp_dataset  # noqa: E402, F401  registers EuroCityPersons

init_default_scope("mmdet")
