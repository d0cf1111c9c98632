"""RoIAlign (He et al., Mask R-CNN) on CPUs as weighted sums of rows of a table, several times as fast as mmcv's kernel.

The average of bilinear samples in a bin is separable: a pixel's weight is that of its row times that of its column. So
every bin is a bag of pixels with weights, which `F.embedding_bag` adds up, all channels of a pixel at a time.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BAG_ENTRIES = 2**16  # pixels that are looked up at a time: indices and weights stay in the cache


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """Return the average-pooled regions, (regions, channels, height, width), up to float32 rounding as mmcv does.

    Regions of no or negative extent give zeros, unless `sampling_ratio` is positive (mmcv refuses negative ones).

    Args:
        features: float32 (images, channels, H, W); memory in channels-last order saves a copy.
        rois: (regions, 5): image, x1, y1, x2, y2 in input pixels. May reach beyond the image.
        output_size: bins, (height, width).
        spatial_scale: features per input pixel.
        sampling_ratio: samples per bin and direction; 0 takes as many as a bin is features long.
        aligned: shift by half a pixel, and do not widen regions to one feature.
    """
    images, channels, height, width = features.shape
    pooled = features.new_zeros(len(rois), *output_size, channels)
    if not rois.numel() or not features.numel():
        return pooled.permute(0, 3, 1, 2)
    table = features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    boxes = rois[:, 1:].float() * spatial_scale - (0.5 if aligned else 0.0)
    start, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    if not aligned:
        extent = extent.clamp(min=1)
    bins = extent / extent.new_tensor([output_size[1], output_size[0]])  # of width, of height
    samples = torch.full_like(bins, sampling_ratio) if sampling_ratio > 0 else bins.ceil()
    first_row = rois[:, 0].long() * height * width
    for members, (across, down) in _groups(samples.long(), output_size):
        columns, column_weights = _taps(start[members, 0], bins[members, 0], across, output_size[1], width)
        rows, row_weights = _taps(start[members, 1], bins[members, 1], down, output_size[0], height)
        rows = rows * width + first_row[members, None, None]
        index = (rows[:, :, None, :, None] + columns[:, None, :, None, :]).flatten(0, 2).flatten(1)
        weight = (row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]).flatten(0, 2).flatten(1)
        sums = F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
        pooled[members] = sums.view(len(members), *output_size, channels)
    return pooled.permute(0, 3, 1, 2)


def _groups(samples: Tensor, output_size: tuple[int, int]) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield regions with the same numbers of samples, (across, down), a bounded number at a time."""
    kinds, kind = samples.unique(dim=0, return_inverse=True)
    for number, (across, down) in enumerate(kinds.tolist()):
        if across > 0 and down > 0:
            entries = output_size[0] * output_size[1] * (across + 1) * (down + 1)
            members = (kind == number).nonzero().flatten()
            yield from ((part, (across, down)) for part in members.split(max(1, BAG_ENTRIES // entries)))


def _taps(start: Tensor, bin_size: Tensor, samples: int, bins: int, size: int) -> tuple[Tensor, Tensor]:
    """Return which features along one axis every bin averages, and with which weights.

    Args:
        start, bin_size: of the regions, in features, (regions,).
        samples: per bin.
        bins: per region.
        size: number of features along the axis.

    Returns:
        Indices (int64) and weights, each (regions, bins, taps).
    """
    steps = torch.arange(samples) + 0.5
    # in mmcv's order of operations, so that samples fall on the same side of every border
    position = start[:, None, None] + torch.arange(bins)[:, None] * bin_size[:, None, None]
    position = position + steps * bin_size[:, None, None] / samples
    is_inside = (position >= -1) & (position <= size)
    position = position.clamp(min=0, max=size - 1)
    low = position.long()
    first, is_dense = low[..., :1], bool((bin_size <= samples).all())
    if is_dense:  # rounding of the position may put the last sample onto the feature after its own, with share 0
        low = torch.minimum(low, first + samples - 1)
    share = position - low
    weights = torch.stack([1 - share, share]) * is_inside / samples
    if is_dense:  # neighbours share features: as many as there are samples, and one
        merged = weights.new_zeros(*low.shape[:2], samples + 1)
        merged.scatter_add_(-1, low - first, weights[0]).scatter_add_(-1, low - first + 1, weights[1])
        taps, weights = first + torch.arange(samples + 1), merged
    else:
        taps, weights = torch.cat([low, low + 1], -1), torch.cat([*weights], -1)
    return taps.clamp(max=size - 1), weights
