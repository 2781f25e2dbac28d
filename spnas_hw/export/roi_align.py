"""RoI features from a feature pyramid, in operators that every runtime has.

Equal to mmdet's `SingleRoIExtractor` over mmcv's `RoIAlign(aligned=True, pool_mode="avg")` with a fixed
`sampling_ratio` (Mask R-CNN, ICCV 2017, section 3; level rule: FPN, CVPR 2017, equation 1). The ONNX operator
RoiAlign is avoided: each level would have to process every RoI, and not every runtime can build it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


def roi_levels(rois: Tensor, num_levels: int, finest_scale: float = 56.0) -> Tensor:
    """Pyramid level of each RoI, from its scale (geometric mean of its sides, pixels).

    Level 0 below `2 * finest_scale`, then one level per octave.

    Args:
        rois: [P, 4] float32, x0, y0, x1, y1 in image pixels.
        num_levels: number of feature maps.

    Returns:
        [P] int64, 0 .. num_levels - 1.
    """
    scale = torch.sqrt((rois[:, 2] - rois[:, 0]) * (rois[:, 3] - rois[:, 1])) / finest_scale + 1e-6
    thresholds = torch.tensor([2.0**level for level in range(1, num_levels)], device=rois.device)
    # comparisons instead of floor(log2()): exact at the borders in every runtime
    return (scale[:, None] >= thresholds).to(torch.int64).sum(dim=1)


def multilevel_roi_align(
    features: Sequence[Tensor],
    strides: Sequence[int],
    rois: Tensor,
    output_size: int = 7,
    sampling_ratio: int = 2,
    finest_scale: float = 56.0,
) -> Tensor:
    """Average-pooled, bilinearly sampled RoI features, each RoI from its own level only.

    Args:
        features: one map per level, [1, C, H_l, W_l].
        strides: image pixels per cell of each map.
        rois: [P, 4] float32, x0, y0, x1, y1 in image pixels, inside the image (as `decode_boxes` clips them:
            mmcv's zeros for samples more than a cell outside the map are not reproduced).
        output_size: bins per side.
        sampling_ratio: samples per side of a bin; fixed, since an adaptive number is data-dependent.

    Returns:
        [P, C, output_size, output_size] in the type of the features; geometry and sums are float32.

    Raises:
        ValueError: `features` and `strides` differ in number, or there is no level.
    """
    if not features or len(features) != len(strides):
        raise ValueError(f"{len(features)} feature maps but {len(strides)} strides: give one stride per map")
    channels = features[0].shape[1]
    cells = torch.cat([feature.reshape(channels, -1) for feature in features], dim=1).transpose(0, 1)
    heights, widths = [int(f.shape[2]) for f in features], [int(f.shape[3]) for f in features]
    starts = [0, *accumulate(h * w for h, w in zip(heights, widths, strict=True))][:-1]

    level = roi_levels(rois, len(features), finest_scale)

    def of_level(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=rois.device).index_select(0, level)

    height, width, start = (of_level(values) for values in (heights, widths, starts))
    scale = of_level([1.0 / stride for stride in strides])

    y, y_weights = _axis_samples(rois[:, 1] * scale, rois[:, 3] * scale, height, output_size, sampling_ratio)
    x, x_weights = _axis_samples(rois[:, 0] * scale, rois[:, 2] * scale, width, output_size, sampling_ratio)
    rows = start[:, None, None] + y * width[:, None, None]
    return _combine(cells, rows, x, y_weights, x_weights)


def _axis_samples(
    low: Tensor, high: Tensor, length: Tensor, output_size: int, sampling_ratio: int
) -> tuple[Tensor, Tensor]:
    """Cells and weights along one axis: both [P, output_size, 2 * sampling_ratio], int64 and float32."""
    bin_size = ((high - low) / output_size)[:, None, None]
    bins = torch.arange(output_size, dtype=torch.float32, device=low.device)[:, None]
    offsets = torch.arange(sampling_ratio, dtype=torch.float32, device=low.device) + 0.5
    # the order of the operations is mmcv's, so that the rounding is too
    position = (low - 0.5)[:, None, None] + bins * bin_size + offsets * bin_size / sampling_ratio
    last = (length - 1).to(torch.float32)[:, None, None]
    position = torch.minimum(position.clamp(min=0.0), last)
    lower = torch.floor(position)
    upper = torch.minimum(lower + 1.0, last)
    fraction = position - lower
    shape = (-1, output_size, 2 * sampling_ratio)
    taps = torch.stack([lower, upper], dim=-1).to(torch.int64).reshape(shape)
    weights = torch.stack([1.0 - fraction, fraction], dim=-1).reshape(shape) / sampling_ratio
    return taps, weights


def _combine(cells: Tensor, rows: Tensor, x: Tensor, y_weights: Tensor, x_weights: Tensor) -> Tensor:
    """Weighted sum of the gathered cells, [P, C, bins, bins].

    The taps along x are one small matrix product per bin (faster than multiply and reduce); those along y are
    separate terms, so that only a fraction of the gathered cells is in memory at a time.
    """
    rois, bins, taps = rows.shape
    pooled = cells.new_zeros(1, dtype=torch.float32)
    for tap in range(taps):
        index = rows[:, :, None, tap, None] + x[:, None, :, :]
        weights = y_weights[:, :, None, tap, None] * x_weights[:, None, :, :]
        gathered = cells.index_select(0, index.reshape(-1)).to(torch.float32)
        gathered = gathered.reshape(rois * bins * bins, taps, -1)
        pooled = pooled + torch.matmul(weights.reshape(rois * bins * bins, 1, taps), gathered)
    return pooled.reshape(rois, bins, bins, -1).permute(0, 3, 1, 2).to(cells.dtype)
