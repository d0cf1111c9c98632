"""The codes of a weight for a given metric: the range of least expected error row by row, GPTQ on it, then descent."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .coordinate_descent import coordinate_descent, refit_scale
from .gptq import Elimination
from .row_gptq import gptq_on_rows
from .row_problem import Metric, RowsMetric
from .scale_search import affine_parameters
from .spec import QuantSpec
from .weight_grid import QuantizedWeight, WeightGrid, fit_weight_grid
from .weight_levels import dearest_columns, levels_of_range, search_weight_levels

SHRINKS = (1.0, 0.9, 0.83, 0.75, 0.67, 0.58, 0.5)  # of the range from minimum to maximum
WIDE = 4096
# of a wide weight those by which ranges on a table are chosen, and the table
SEARCHED_COLUMNS, LEVEL_COLUMNS = 1024, 512


def search_codes(target: Tensor, metric: Metric, spec: QuantSpec, table: Tensor | None = None) -> QuantizedWeight:
    """Return the weight on its grid, without a bias.

    Layers of more than 4,096 columns are visited once by descent, and those whose metric is held as rows have the range
    of least squared error.

    Args:
        target: W*, (out, in).
        metric: H.
        spec: of the weight; one grid per row.
        table: of the levels of a grid that has one; None chooses it.

    Raises:
        ValueError: a grid of two groups, which has no single scale to refit.
    """
    if spec.grid == 'dual_uniform':
        raise ValueError("weights with two scales per row (grid 'dual_uniform') cannot be searched by descent")
    is_wide = target.shape[1] > WIDE
    if isinstance(metric, RowsMetric):
        grid = _search_grid(target, None, spec, table)
        found = gptq_on_rows(QuantizedWeight(target, grid, None), target, metric)
    else:
        elimination = Elimination(metric.matrix, damping=0.0, act_order=True)
        grid = _search_grid(target, elimination.variances(), spec, table)
        found = elimination.quantize(QuantizedWeight(target, grid, None), target)
    found = coordinate_descent(found, target, metric)
    if is_wide:
        return found
    return coordinate_descent(refit_scale(found, target, metric), target, metric)


def _search_grid(target: Tensor, variances: Tensor | None, spec: QuantSpec, table: Tensor | None) -> WeightGrid:
    """Return the ranges of least expected error, or of least squared error where no variances are known."""
    if spec.grid == 'levels':
        return _search_levels(target, variances, spec.bits, table)
    fitted = fit_weight_grid(target, spec)
    if variances is None:
        return fitted
    return _best_range([fitted, *_shrunk_grids(fitted, target, spec)], target, variances)


def _search_levels(target: Tensor, variances: Tensor | None, bits: int, table: Tensor | None) -> WeightGrid:
    """Return the ranges of least error on a table, or on that of `search_weight_levels`."""
    sample, costs = dearest_columns(target, variances, SEARCHED_COLUMNS)
    grids = []
    if table is None:
        grids = [search_weight_levels(*dearest_columns(sample, costs, LEVEL_COLUMNS), bits)]
        table = grids[0].table
    low, high = _ends(target)
    grids += [levels_of_range(table, low * shrink, high * shrink) for shrink in SHRINKS]
    return _best_range(grids, sample, costs)


def _best_range(grids: Sequence[WeightGrid], target: Tensor, variances: Tensor) -> WeightGrid:
    """Return, row by row, the grid of the least expected error of GPTQ.

    GPTQ rounds every column once, what is left of earlier errors added to it, and an error in column j costs
    variances[j] in the end: that of plain rounding stands for it, so that no range has to be tried.

    Args:
        grids: of one table, if any.
        variances: of `Elimination.variances`.
    """
    weights, best = variances.to(target.dtype), None
    for grid in grids:
        error = (grid.decode(grid.encode(target)) - target).square_() @ weights
        if best is None:
            best = error, grid.scale, grid.zero_point
            continue
        is_better = (error < best[0])[:, None]
        scale, zero_point = grid.scale.where(is_better, best[1]), grid.zero_point.where(is_better, best[2])
        best = torch.minimum(error, best[0]), scale, zero_point
    return replace(grids[0], scale=best[1], zero_point=best[2])


def _shrunk_grids(fitted: WeightGrid, target: Tensor, spec: QuantSpec) -> list[WeightGrid]:
    if spec.grid == 'symmetric':
        return [replace(fitted, scale=fitted.scale * shrink) for shrink in SHRINKS if shrink != 1]
    low, high = _ends(target)
    return [WeightGrid(*affine_parameters(low * s, high * s, spec.max_code), spec.max_code) for s in SHRINKS]


def _ends(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the range of every row, widened to contain zero, (out, 1)."""
    return target.amin(1, keepdim=True).clamp(max=0), target.amax(1, keepdim=True).clamp(min=0)
