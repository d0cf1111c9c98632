"""Choice of quantizer ranges: percentile candidates, the winner by mean squared error (RepQ-ViT and ERQ code)."""

import torch
from torch import Tensor

from .histogram import Histogram
from .spec import QuantSpec


def affine_parameters(low: Tensor, high: Tensor, max_code: int) -> tuple[Tensor, Tensor]:
    """Return scale = (high - low) / max_code and zero point = round(-low / scale); for an empty range |v|, or 1."""
    fallback = torch.maximum(low.abs(), high.abs())
    fallback = torch.where(fallback > 0, fallback, torch.ones_like(fallback))
    spread = high - low
    scale = torch.where(spread > 1e-30, spread / max_code, fallback)
    return scale, torch.round(-low / scale)


def search_uniform_range(histogram: Histogram, spec: QuantSpec, *, contains_zero: bool) -> tuple[Tensor, Tensor]:
    """Return scale and zero point per channel of the histogram, float64 (channels,).

    Args:
        histogram: of the values to quantize.
        spec: bits and candidate percentiles.
        contains_zero: widen every candidate to contain zero, so that zero is exactly representable.
    """
    centres, best = histogram.centres(), None
    lows = histogram.quantiles([1 - percentile for percentile in spec.percentiles])
    highs = histogram.quantiles(spec.percentiles)
    for low, high in zip(lows, highs, strict=True):
        if contains_zero:
            low, high = low.clamp(max=0), high.clamp(min=0)
        scale, zero_point = affine_parameters(low, high, spec.max_code)
        codes = (torch.round(centres / scale[:, None]) + zero_point[:, None]).clamp_(0, spec.max_code)
        error = (((codes - zero_point[:, None]) * scale[:, None] - centres).square_() * histogram.counts).sum(1)
        best = _better(best, (error, scale, zero_point))
    return best[1], best[2]


def _better(best: tuple[Tensor, ...] | None, candidate: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return, entry by entry, the tuple (error, scale, zero point) of smaller error; the older one on a tie."""
    if best is None:
        return candidate
    better = candidate[0] < best[0]
    return tuple(torch.where(better, new, old) for new, old in zip(candidate, best, strict=True))


def symmetric_scale(magnitude: Tensor | float, bits: int) -> Tensor:
    """Return magnitude / (2**(b - 1) - 0.5), where PTQ4ViT begins on symmetric grids; 1 for a magnitude of zero."""
    magnitude = torch.as_tensor(magnitude)
    return torch.where(magnitude > 1e-30, magnitude / (2 ** (bits - 1) - 0.5), 1.0)


def search_log_scale(histogram: Histogram, spec: QuantSpec) -> Tensor:
    """Return the scale of the log-sqrt2 grid; `histogram` holds log2 of the positive values."""
    if histogram.is_empty:  # every value was zero: any scale is exact
        return torch.ones(())
    exponents, best = histogram.centres(), None
    values = exponents.exp2()
    for percentile in spec.percentiles:
        log2_scale = histogram.quantile(percentile)[:, None]
        codes = torch.round(-2 * (exponents - log2_scale)).clamp_(min=0)
        grid_values = torch.where(codes > spec.max_code, 0.0, (log2_scale - codes / 2).exp2())
        error = ((grid_values - values).square() * histogram.counts).sum()
        best = _better(best, (error, log2_scale.exp2().squeeze()))
    return best[1]


def search_weight_range(weight: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """Return scale and zero point per output row, each (out, 1), for a weight of shape (out, in).

    Every range contains zero. Quantiles are exact (linear interpolation between order statistics).
    """
    tails = _Tails(weight, 1 - min(spec.percentiles))
    best = None
    for percentile in spec.percentiles:
        low, high = tails.at(1 - percentile)
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale, zero_point = affine_parameters(low, high, spec.max_code)
        error = _row_error(weight, scale, zero_point, spec.max_code)
        best = _better(best, (error, scale, zero_point))
    return best[1], best[2]


class _Tails:
    """The largest and smallest values of every row, sorted: extreme quantiles without sorting what lies between.

    Args:
        weight: (rows, columns).
        share: the share of a row that either tail must reach, below one half.
    """

    def __init__(self, weight: Tensor, share: float) -> None:
        self.last = weight.shape[1] - 1
        count = min(int(share * self.last) + 2, weight.shape[1])
        self.high = weight.topk(count, dim=1).values
        self.low = weight.topk(count, dim=1, largest=False).values

    def at(self, share: float) -> tuple[Tensor, Tensor]:
        """Return the quantiles `share` and 1 - `share` of every row, (rows, 1) each, linearly interpolated."""
        position = share * self.last
        inner = int(position)
        outer = min(inner + 1, self.last)
        low, high = (torch.lerp(tail[:, inner], tail[:, outer], position - inner) for tail in (self.low, self.high))
        return low[:, None], high[:, None]


def _row_error(weight: Tensor, scale: Tensor, zero_point: Tensor, max_code: int) -> Tensor:
    values = (weight / scale).round_().clamp_(-zero_point, max_code - zero_point).mul_(scale)
    return values.sub_(weight).square_().sum(1, keepdim=True)
