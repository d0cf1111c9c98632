"""Levels of least weighted squared error for many columns at once: one table, and a scale and zero point per column.

The levels are those of Lloyd and Max (IEEE Trans. Inf. Theory 28, 1982) for the values of all columns together, each in
its own units, which take turns with the units: a column may be stretched about the middle of the levels and moved. It
begins with the units in which evenly spaced levels are best (`clipping`).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .clipping import SEARCHED_ROWS, Zero, search_clipped_range
from .quantizers.levels import FINE_CODES, even_table, nearest_code

ROUNDS = 2
BINS = 4096
ITERATIONS = 300
STRETCHES = (0.75, 0.85, 0.93, 1.07, 1.15, 1.3)
MOVES = (-0.8, -0.4, -0.2, 0.2, 0.4, 0.8)  # in steps between evenly spaced levels


@dataclass(frozen=True)
class Levels:
    """Where the levels of every column lie: (table - zero_point) * scale.

    Attributes:
        scale, zero_point: of the finer grid of 256 codes, float64 (columns,).
        table: codes on it, ascending, float64 (2**bits,), from 0 to 255.
    """

    scale: Tensor
    zero_point: Tensor
    table: Tensor

    def spanning(self, levels: Tensor) -> 'Levels':
        """Return the levels at real `levels` in these units, ascending, as codes of a grid that they span."""
        first, last = levels[0], levels[-1]
        step = (last - first) / FINE_CODES
        table = ((levels - first) / step).round()
        return Levels(self.scale * step, (self.zero_point - first) / step, table)

    def stretched(self, factor: float, fixed: Tensor) -> 'Levels':
        """Return these with units larger by a factor, about their middle or, in `fixed` columns, about zero."""
        middle = FINE_CODES / 2
        zero_point = torch.where(fixed, self.zero_point, middle - (middle - self.zero_point) / factor)
        return replace(self, scale=self.scale * factor, zero_point=zero_point)

    def where(self, condition: Tensor, other: 'Levels') -> 'Levels':
        """Return these where the condition holds, column by column, and else the other ones of the same table."""
        scale = torch.where(condition, self.scale, other.scale)
        return Levels(scale, torch.where(condition, self.zero_point, other.zero_point), self.table)


def even_levels(scale: Tensor, zero_point: Tensor, bits: int) -> Levels:
    """Return the levels of uniform grids of `bits` bits, (columns,) each."""
    step = FINE_CODES / (2**bits - 1)
    return Levels(scale.double() / step, zero_point.double() * step, even_table(bits).double().to(scale.device))


def search_levels(
    x: Tensor,
    weights: Tensor,
    importance: Tensor,
    bits: int,
    *,
    margin: float = 1.0,
    zero: Zero = 'anywhere',
    rows: int = SEARCHED_ROWS,
) -> Levels:
    """Return levels of least sum over rows r and columns c of weights[r] importance[c] (x_q - x)[r, c]^2.

    The minimum is a local one. A column whose least value is zero, as a ReLU leaves it, is stretched about zero and not
    moved; constant columns have no say in the table.

    Args:
        x: (rows, columns), at least one row; of many rows some are searched.
        weights: (rows,), not negative.
        importance: (columns,), not negative: how much the error of a column counts.
        margin: factor by which all levels are stretched, for values that these rows do not show.
        zero: where it may be; about a common one all columns are stretched.
        rows: how many rows are searched at most.
    """
    start = search_clipped_range(x, weights, bits, zero=zero, rows=rows)
    levels = even_levels(*start, bits)
    varies = x.amin(0) < x.amax(0)
    step = -(-len(x) // rows)
    fixed = torch.ones_like(varies) if zero == 'common' else x.amin(0) == 0
    search = _Search(x[::step], weights[::step], torch.where(varies, importance, 0.0), fixed)
    for index in range(ROUNDS):
        if index:
            levels = search.units(levels)
        levels = search.table(levels)
    levels = levels.stretched(margin, search.fixed)
    return levels if zero == 'anywhere' else _with_zero(levels)


def lloyd_max(places: Tensor, counts: Tensor, levels: Tensor) -> Tensor:
    """Return levels, float64 ascending, to none of which its cell's mean is another: a local minimum of squared error.

    Args:
        places: values in ascending order, (n,). counts: how often each occurs, not negative, (n,).
        levels: ascending, with which the iteration begins; a level whose cell is empty stays.
    """
    zero = counts.new_zeros(1)
    mass, moment = (torch.cat([zero, sums.cumsum(0)]) for sums in (counts, counts * places))
    ends = torch.tensor([0, len(places)])
    for _ in range(ITERATIONS):
        inner = torch.searchsorted(places, (levels[1:] + levels[:-1]) / 2)
        edges = torch.cat([ends[:1], inner, ends[1:]])
        inside, total = mass[edges].diff(), moment[edges].diff()
        moved = torch.where(inside > 0, total / inside.clamp(min=1e-300), levels)
        if torch.allclose(moved, levels, rtol=0, atol=1e-6 * float(places[-1] - places[0])):
            return moved
        levels = moved
    return levels


def _with_zero(levels: Levels) -> Levels:
    """Move every column by less than half a step so that zero is the level that was nearest to it."""
    nearest = (levels.table[None] - levels.zero_point[:, None]).abs().argmin(1)
    return replace(levels, zero_point=levels.table[nearest])


class _Search:
    """Improves levels on the same rows.

    Args:
        x: (rows, columns). weights: (rows,). importance: (columns,).
        fixed: columns that are stretched about zero and not moved, bool (columns,).
    """

    def __init__(self, x: Tensor, weights: Tensor, importance: Tensor, fixed: Tensor) -> None:
        self.x, self.weights, self.importance, self.fixed = x, weights.to(x.dtype), importance, fixed

    def table(self, levels: Levels) -> Levels:
        """Return the levels of Lloyd and Max for all columns, in the units of the given ones."""
        codes = self._codes(levels)
        low, high = (float(end) for end in codes.aminmax())
        share = self.weights[:, None] * (self.importance * levels.scale.square()).to(self.x.dtype)
        if not low < high or not float(share.max()) > 0:
            return levels
        width = (high - low) / BINS
        bins = (codes - low).div_(width).to(torch.int32).clamp_(0, BINS - 1)
        # in main memory: CUDA sums weights in any order, and refuses to where PyTorch is asked to be deterministic
        counts = torch.bincount(bins.view(-1).cpu(), share.view(-1).cpu().double(), BINS)
        places = low + width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
        found = lloyd_max(places, counts, levels.table.cpu()).to(levels.scale.device)
        return levels.spanning(found) if bool(found[0] < found[-1]) else levels

    def units(self, levels: Levels) -> Levels:
        """Return the same table in the units of least error among some, column by column."""
        step = FINE_CODES / (len(levels.table) - 1)
        values = nearest_code(levels.table).to(self.x.dtype)
        best, least = levels, self._errors(levels, values)
        for factor in STRETCHES:
            best, least = self._better(levels.stretched(factor, self.fixed), best, least, values)
        if bool(self.fixed.all()):
            return best
        centre = best
        for move in MOVES:
            shift = torch.where(self.fixed, 0.0, move * step)
            moved = replace(centre, zero_point=centre.zero_point + shift)
            best, least = self._better(moved, best, least, values)
        return best

    def _better(self, levels: Levels, best: Levels, least: Tensor, values: Tensor) -> tuple[Levels, Tensor]:
        errors = self._errors(levels, values)
        is_better = errors < least
        return levels.where(is_better, best), torch.where(is_better, errors, least)

    def _codes(self, levels: Levels) -> Tensor:
        inverse, zero_point = (1 / levels.scale).to(self.x.dtype), levels.zero_point.to(self.x.dtype)
        return torch.addcmul(zero_point, self.x, inverse)

    def _errors(self, levels: Levels, values: Tensor) -> Tensor:
        """Return the weighted squared error of every column; `values` are what the 256 codes become."""
        codes = self._codes(levels)
        index = codes.round().clamp_(0, FINE_CODES).to(torch.int32)
        errors = values.index_select(0, index.view(-1)).view_as(codes).sub_(codes).square_()
        return (self.weights @ errors).double() * levels.scale.square()
