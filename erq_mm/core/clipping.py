"""Ranges of uniform grids by weighted squared error on rows, each end clipped on its own."""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .scale_search import affine_parameters

QUANTILES = (0.0, 1e-4, 1e-3, 0.003, 0.01, 0.02, 0.04)
NARROW_QUANTILE = 0.08  # also tried at 3 bits and below
FACTORS = (0.8, 0.9, 1.1)
SEARCHED_ROWS = 2048
MOST_VALUES = 2**18  # of a tensor that are searched
# of a grid per column, where zero is: also between two levels, on a level of every column, on the same one of all
Zero = Literal['anywhere', 'level', 'common']


def clip_candidates(bits: int) -> tuple[float, ...]:
    """Return the shares of the values that may be cut off at either end."""
    return QUANTILES if bits > 3 else (*QUANTILES, NARROW_QUANTILE)


def search_ends(
    x: Tensor, weights: Tensor, bits: int, *, contains_zero: bool = False, rows: int = SEARCHED_ROWS
) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper end per column, float64 (columns,), of least weighted squared error.

    Both ends are clipped together first, then the upper one and then the lower one alone, then the range is made wider
    and narrower.

    Args:
        x: (rows, columns), at least one row; of many rows some are searched, and all give the extremes.
        weights: (rows,), not negative.
        bits: of the grid.
        contains_zero: widen every range to contain zero, so that zero is on the grid.
        rows: how many rows are searched at most.
    """
    extremes = x.amin(0).double(), x.amax(0).double()
    search = _Search(*_some(x, weights, rows), bits, contains_zero)
    lows, highs = _quantiles(search.x, clip_candidates(bits), extremes)
    best = search.best(zip(lows, highs, strict=True))
    best = search.best(((best[0], high) for high in highs), best)
    best = search.best(((low, best[1]) for low in lows), best)
    return search.best((rescaled(*best, factor) for factor in FACTORS), best)


def search_clipped_range(
    x: Tensor,
    weights: Tensor,
    bits: int,
    *,
    margin: float = 1.0,
    zero: Zero = 'anywhere',
    least_reach: float = 0.0,
    rows: int = SEARCHED_ROWS,
) -> tuple[Tensor, Tensor]:
    """Return scale and zero point per column of the range of `search_ends`, widened about its middle.

    A column whose least value is zero, as a ReLU leaves it, is not widened below: nothing lies there.

    Args:
        margin: factor by which the range is widened, for values that these rows do not show.
        zero: where it may be; ranges are as wide as that takes.
        least_reach: every range goes at least as far from the mean of its column, at either end, as this share of how
            far the farthest one goes: columns that are seldom large are so elsewhere.
    """
    contains_zero = zero != 'anywhere'
    low, high = rescaled(*search_ends(x, weights, bits, contains_zero=contains_zero, rows=rows), margin)
    if least_reach:
        low, high = _reaching(x, low, high, least_reach)
    low = low.where(x.amin(0) != 0, low.clamp(min=0))
    if contains_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    if zero == 'common':
        return _with_common_zero(low, high, 2**bits - 1)
    return affine_parameters(low, high, 2**bits - 1)


def affordable_reach(x: Tensor, weights: Tensor, importance: Tensor, bits: int, share: float) -> float:
    """Return how much of the farthest column's range all may have before rounding costs a share of the variance.

    Args:
        x: (rows, columns), at least one row; of many rows some give the variance, and all the extremes.
        weights: (rows,).
        importance: (columns,), of the errors of a column.
        bits: of the grid.
        share: of the columns' variance, all of them weighted by their importance.

    Returns:
        From 0 to 1; of constant columns 0.
    """
    some, shares = _some(x, weights, SEARCHED_ROWS)
    some, shares = some.double(), (shares / shares.sum().clamp(min=1e-30)).double()
    mean = shares @ some
    variance = shares @ (some - mean).square() @ (importance / importance.sum().clamp(min=1e-30)).double()
    width = float((x.amax(0) - mean).amax() - (x.amin(0) - mean).amin())
    if width == 0:
        return 0.0
    farthest = (2**bits - 1) * (12 * share * float(variance)) ** 0.5  # rounding costs a twelfth of a step's square
    return min(1.0, farthest / width)


def _some(x: Tensor, weights: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return evenly chosen rows, so many at most, and their weights."""
    step = -(-len(x) // rows)
    return x[::step], weights[::step]


def _reaching(x: Tensor, low: Tensor, high: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Return ends that go as far from the means of the columns as `reach` wants; of an empty range the extremes."""
    mean, is_empty = x.mean(0).double(), low == high
    low, high = torch.where(is_empty, x.amin(0), low), torch.where(is_empty, x.amax(0), high)
    return torch.minimum(low, mean + reach * (low - mean).amin()), torch.maximum(
        high, mean + reach * (high - mean).amax()
    )


def _with_common_zero(low: Tensor, high: Tensor, max_code: int) -> tuple[Tensor, Tensor]:
    """Return scales that take all ranges, (columns,), zero in each, with the code of zero that is the mean of theirs.

    A column of zeros has no say, and a scale of one.
    """
    is_silent = low == high
    if bool(is_silent.all()):
        return torch.ones_like(low), torch.zeros_like(low)
    zero = (-low / (high - low))[~is_silent].mean().mul(max_code).round()
    zero = zero.clamp(float((low < 0).any()), max_code - float((high > 0).any()))
    below = torch.where(low < 0, low / -zero, 0.0)
    above = torch.where(high > 0, high / (max_code - zero), 0.0)
    return torch.where(is_silent, 1.0, torch.maximum(below, above)), zero.expand_as(low)


def tensor_sample(values: Tensor, most: int = MOST_VALUES) -> Tensor:
    """Return evenly chosen values of a tensor of any shape, `most` or fewer, and its extremes, as one column."""
    values = values.reshape(-1)
    return torch.cat([values[:: -(-len(values) // most)], torch.stack(values.aminmax())])[:, None]


def search_tensor_range(
    values: Tensor, bits: int, *, margin: float = 1.0, most: int = MOST_VALUES
) -> tuple[Tensor, Tensor]:
    """Return scale and zero point, (1,), of one range for all values, of any shape and at least one; zero is on it.

    Args:
        margin: as of `search_clipped_range`.
        most: how many values are searched; all give the extremes.
    """
    sample = tensor_sample(values, most)
    ones = sample.new_ones(len(sample))
    return search_clipped_range(sample, ones, bits, margin=margin, zero='level', rows=len(sample))


def rescaled(low: Tensor, high: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Return the ends of a range made wider or narrower about its middle."""
    middle, half = (low + high) / 2, (high - low) / 2
    return middle - factor * half, middle + factor * half


def range_errors(x: Tensor, weights: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Return the weighted squared error of every column, (columns,), on the grid from `low` to `high`."""
    max_code = 2**bits - 1
    scale, zero_point = (t.to(x.dtype) for t in affine_parameters(low, high, max_code))
    values = (x / scale).round_()
    torch.clamp(values, -zero_point, max_code - zero_point, out=values)
    return weights @ values.mul_(scale).sub_(x).square_()


def _quantiles(x: Tensor, shares: Sequence[float], ends: tuple[Tensor, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the lower and the upper quantiles of every column; the ends themselves are those of all rows."""
    ordered = _sorted_columns(x)
    last = len(x) - 1
    places = [round(share * last) for share in shares]
    ordered = ordered[[*places, *(last - place for place in places)]].double()
    count = len(places)
    lows = [ends[0] if share == 0 else low for share, low in zip(shares, ordered[:count], strict=True)]
    highs = [ends[1] if share == 0 else high for share, high in zip(shares, ordered[count:], strict=True)]
    return lows, highs


def _sorted_columns(x: Tensor) -> Tensor:
    """Return every column in ascending order; numpy does it ten times faster than torch on a CPU."""
    if x.device.type != 'cpu':
        return x.sort(0).values
    return torch.from_numpy(np.sort(x.T.contiguous().numpy(), axis=1)).T


class _Search:
    """Compares ranges on the same rows.

    Args:
        x: (rows, columns).
        weights: (rows,).
    """

    def __init__(self, x: Tensor, weights: Tensor, bits: int, contains_zero: bool) -> None:
        self.x, self.weights, self.bits, self.contains_zero = x, weights.to(x.dtype), bits, contains_zero
        self.errors: Tensor | None = None

    def best(
        self, candidates: Iterator[tuple[Tensor, Tensor]], best: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return, column by column, the ends of least error among `best` and the candidates."""
        for low, high in candidates:
            if self.contains_zero:
                low, high = low.clamp(max=0), high.clamp(min=0)
            errors = range_errors(self.x, self.weights, low, high, self.bits)
            if best is None:
                best, self.errors = (low, high), errors
                continue
            is_better = errors < self.errors
            best = torch.where(is_better, low, best[0]), torch.where(is_better, high, best[1])
            self.errors = torch.where(is_better, errors, self.errors)
        return best
