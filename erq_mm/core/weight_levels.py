"""Tables of levels for weights: levels of least expected error of a layer's weights, shared by its rows.

A weight has many values around zero and few far from it, as activations have (`levels`). What is stored has the spec's
bits; what it stands for are codes of a finer grid, whose differences are integers of six bits and a sign
(`weight_grid`).
"""

from dataclasses import replace

import torch
from torch import Tensor

from .levels import search_levels
from .quantizers.levels import FINE_CODES
from .scale_search import affine_parameters
from .weight_grid import FINER, WeightGrid


def dearest_columns(target: Tensor, variances: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Return up to `count` columns of a weight (out, in), and what a squared error in each costs.

    They are those whose weights cost most; where all cost alike (None), every so many.
    """
    if variances is None:
        columns = target[:, :: -(-target.shape[1] // count)]
        return columns, torch.ones_like(columns[0])
    variances = variances.to(target.dtype)
    if target.shape[1] <= count:
        return target, variances
    chosen = (variances * target.square().sum(0)).topk(count).indices.sort().values
    return target[:, chosen], variances[chosen]


def search_weight_levels(target: Tensor, variances: Tensor, bits: int) -> WeightGrid:
    """Return levels of least sum over rows r and columns c of variances[c] (q - w)[r, c]^2, a local minimum.

    Zero is a level of every row.

    Args:
        target: (out, in), at least one column.
        variances: what a squared error in a column costs, (in,), not negative.
    """
    rows = target.new_ones(len(target)).double()
    found = search_levels(target.T.contiguous(), variances, rows, bits, zero='level')
    largest = (2**bits - 1) * FINER
    scale, places = FINE_CODES / largest, (found.table[None] == found.zero_point[:, None]).double().argmax(1)
    table = (found.table / scale).round()
    grid = WeightGrid((found.scale * scale)[:, None], table[places][:, None], largest, table=table)
    return grid.to(target.dtype)


def levels_of_range(table: Tensor, low: Tensor, high: Tensor) -> WeightGrid:
    """Return the grid with a table from `low` <= 0 to `high` >= 0, (out, 1), moved so that zero is a level."""
    scale, zero_point = affine_parameters(low, high, (len(table) - 1) * FINER)
    grid = WeightGrid(scale, zero_point, (len(table) - 1) * FINER, table=table)
    return replace(grid, zero_point=grid.nearest_(zero_point))
