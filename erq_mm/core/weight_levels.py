"""Tables of levels for weights: levels of least expected error of a layer's weights, shared by its rows.

A weight has many values around zero and few far from it, as activations have (`levels`). What is stored has the spec's
bits; what it stands for are codes of a finer grid, whose differences are integers of six bits and a sign
(`weight_grid`).
"""

from dataclasses import replace

from torch import Tensor

from .levels import search_levels
from .quantizers.levels import FINE_CODES
from .scale_search import affine_parameters
from .weight_grid import FINER, WeightGrid

COLUMNS = 512  # of a weight that choose the levels


def search_weight_levels(target: Tensor, variances: Tensor, bits: int) -> WeightGrid:
    """Return levels of least sum over rows r and columns c of variances[c] (q - w)[r, c]^2, a local minimum.

    Zero is a level of every row.

    Args:
        target: (out, in), at least one column; of many columns some are searched.
        variances: what a squared error in a column costs, (in,), not negative.
    """
    step = -(-target.shape[1] // COLUMNS)
    columns, counts = target.T[::step].contiguous(), variances[::step].to(target.dtype)
    found = search_levels(columns, counts, columns.new_ones(len(target)).double(), bits, contains_zero=True)
    largest = (2**bits - 1) * FINER
    scale, places = FINE_CODES / largest, (found.table[None] == found.zero_point[:, None]).double().argmax(1)
    table = (found.table / scale).round()
    grid = WeightGrid((found.scale * scale)[:, None], table[places][:, None], largest, table=table)
    return grid.to(target.dtype)


def levels_of_range(grid: WeightGrid, low: Tensor, high: Tensor) -> WeightGrid:
    """Return the grid with the same table from `low` <= 0 to `high` >= 0, (out, 1), moved so that zero is a level."""
    scale, zero_point = affine_parameters(low, high, grid.max_code)
    return replace(grid, scale=scale, zero_point=replace(grid, scale=scale).nearest_(zero_point))
