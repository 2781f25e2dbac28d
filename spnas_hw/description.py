"""An architecture in numbers, for people and for other programs."""

from __future__ import annotations

from typing import Any

from spnas_hw.cost.composition import backbone_params, backbone_workloads, macs, stage_params, stage_workloads
from spnas_hw.cost.workload import Size
from spnas_hw.space.codec import decode, encode


def describe(code: str, size: Size) -> dict[str, Any]:
    """The backbone of a code for an image of `size` (height, width).

    `params` and `macs` of a stage are of its blocks, branches and connections; those of the whole
    backbone include the stem. Weights that branches share are counted once. Raises InvalidArchitecture.
    """
    architecture = decode(code)
    stages = []
    for index, feature in enumerate(architecture.features()):
        stages.append(
            {
                "index": index,
                "blocks": len(architecture.stages[index].doubles),
                "channels": feature.channels,
                "stride": feature.stride,
                "params": stage_params(architecture, index),
                "macs": macs(stage_workloads(architecture, index, size)),
                "branches": architecture.stages[index].branches,
                "own_weights": architecture.stages[index].own_weights,
            }
        )
    return {
        "code": encode(architecture),
        "stages": stages,
        "depth": architecture.depth,
        "params": backbone_params(architecture),
        "macs": macs(backbone_workloads(architecture, size)),
    }
