"""The neck of a detector, ready to be exported."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class TopDown(nn.Module):
    """The neck after its lateral convolutions: `lateral_i` -> `p_i`, and the extra levels: convolved by what
    the neck has convolutions for, or else one, subsampled."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.fpn_convs = neck.fpn_convs

    def forward(self, *laterals: Tensor) -> tuple[Tensor, ...]:
        merged = list(laterals)
        for level in range(len(merged) - 1, 0, -1):
            size = merged[level - 1].shape[2:]
            merged[level - 1] = merged[level - 1] + F.interpolate(merged[level], size=size, mode="nearest")
        levels = [conv(x) for conv, x in zip(self.fpn_convs, merged, strict=False)]
        extra = self.fpn_convs[len(merged) :]
        for conv in extra:
            levels.append(conv(levels[-1]))
        return tuple(levels) if len(extra) else (*levels, F.max_pool2d(levels[-1], 1, stride=2))
