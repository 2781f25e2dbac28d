"""A trained detector as one ONNX of static shapes: image in, final boxes out.

The detector arrives as a module with mmdet's attribute names; nothing here imports mmdet. Backbone and
convolutions are the trained modules themselves, what lies between them (proposals, RoIAlign, NMS) is
`export.postprocess` and `export.roi_align`, static where mmdet's own code depends on the data.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spnas_hw.cost.workload import Size
from spnas_hw.errors import ExportError
from spnas_hw.export.one_stage import OneStageDetector
from spnas_hw.export.two_stage import TwoStageDetector
from spnas_hw.space.detector import Detector

OPSET = 18
OUTPUTS = ("boxes", "scores", "labels", "nms_converged")


def exportable(model: nn.Module, detector: Detector, size: Size) -> nn.Module:
    """The whole detector as a module: image [1, 3, H, W], normalised RGB -> `OUTPUTS`."""
    kind = OneStageDetector if detector.one_stage else TwoStageDetector
    return kind(model, detector, size).eval()


def detector_onnx(model: nn.Module, detector: Detector, size: Size) -> onnx.ModelProto:
    """One ONNX of a trained detector for images of `size` (height, width), batch 1, float32.

    Raises:
        ExportError: torch could not export it, or the result breaks ONNX's rules.
    """
    whole = exportable(folded(model), detector, size)
    image = torch.zeros(1, 3, *size)
    return onnx_from_module(whole, {"image": image}, OUTPUTS)


def folded(model: nn.Module) -> nn.Module:
    """A copy in eval mode, each normalisation folded into the convolution before it.

    The exporter folds as well, but not where sub-networks run one convolution several times.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        for (name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return model


def onnx_from_module(
    module: nn.Module, inputs: Mapping[str, Tensor], output_names: Sequence[str]
) -> onnx.ModelProto:
    """A checked ONNX model with static shapes and all weights inside. Raises ExportError."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it reports that torchvision, which nothing here needs, is absent
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(output_names),
                verbose=False,
            )
        model: onnx.ModelProto = program.model_proto
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # torch's exporter raises many kinds
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ExportError(f"the detector could not be exported to ONNX: {reason}") from error
    finally:
        registration.setLevel(level)
    return model
