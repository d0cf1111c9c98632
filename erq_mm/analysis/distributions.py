"""The distribution of a layer's input, channel by channel (ERQ, Figure 2)."""

import torch
from torch import Tensor

QUANTILES = (0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0)


def channel_quantiles(rows: Tensor, quantiles: tuple[float, ...] = QUANTILES) -> Tensor:
    """Return the quantiles of every channel: rows (N, channels) -> (quantiles, channels)."""
    return torch.quantile(rows.float(), torch.tensor(quantiles, device=rows.device), dim=0)


def range_spread(quantiles: Tensor) -> float:
    """Return the largest range of a channel divided by the median one: how badly one scale fits all channels.

    Args:
        quantiles: from `channel_quantiles`, the first and last row are minimum and maximum.
    """
    ranges = quantiles[-1] - quantiles[0]
    return float(ranges.max() / ranges.median().clamp_min(1e-12))
