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
from .weight_levels import levels_of_range, search_weight_levels

SHRINKS = (1.0, 0.9, 0.83, 0.75, 0.67, 0.58, 0.5)  # of the range from minimum to maximum
WIDE = 4096
SEARCHED_COLUMNS = 2048  # by which the levels of a wider weight are chosen


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
    fitted = fit_weight_grid(target, spec)
    if isinstance(metric, RowsMetric):
        grid = fitted
        if spec.grid == 'levels':
            grid = _search_levels(fitted, target, target.new_ones(target.shape[1]), spec.bits, table)
        found = gptq_on_rows(QuantizedWeight(target, grid, None), target, metric)
    else:
        elimination = Elimination(metric.matrix, damping=0.0, act_order=True)
        variances = elimination.variances()
        if spec.grid == 'levels':
            grid = _search_levels(fitted, target, variances, spec.bits, table)
        else:
            grid, _ = _best_range([fitted, *_shrunk_grids(fitted, target, spec)], target, variances)
        found = elimination.quantize(QuantizedWeight(target, grid, None), target)
    found = coordinate_descent(found, target, metric)
    if is_wide:
        return found
    return coordinate_descent(refit_scale(found, target, metric), target, metric)


def _search_levels(
    fitted: WeightGrid, target: Tensor, variances: Tensor, bits: int, table: Tensor | None
) -> WeightGrid:
    """Return the ranges of least expected error on a table, and if there is none on that of least expected error.

    That is the one of `search_weight_levels`, or the even one of `fitted`. Of many columns some are looked at.
    """
    step = -(-target.shape[1] // SEARCHED_COLUMNS)
    sample, costs, ends = target[:, ::step], variances[::step], _ends(target)
    if table is None:
        starts = [fitted, search_weight_levels(sample, costs, bits)]
        found = [_best_range([start, *_ranges(start, *ends)], sample, costs) for start in starts]
    else:
        found = [_best_range(_ranges(replace(fitted, table=table), *ends), sample, costs)]
    return min(found, key=lambda result: float(result[1].sum()))[0]


def _ranges(grid: WeightGrid, low: Tensor, high: Tensor) -> list[WeightGrid]:
    return [levels_of_range(grid, low * shrink, high * shrink) for shrink in SHRINKS]


def _best_range(grids: Sequence[WeightGrid], target: Tensor, variances: Tensor) -> tuple[WeightGrid, Tensor]:
    """Return, row by row, the grid of the least expected error of GPTQ, and that error, (out,).

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
    return replace(grids[0], scale=best[1], zero_point=best[2]), best[0]


def _shrunk_grids(fitted: WeightGrid, target: Tensor, spec: QuantSpec) -> list[WeightGrid]:
    if spec.grid == 'symmetric':
        return [replace(fitted, scale=fitted.scale * shrink) for shrink in SHRINKS if shrink != 1]
    low, high = _ends(target)
    return [WeightGrid(*affine_parameters(low * s, high * s, spec.max_code), spec.max_code) for s in SHRINKS]


def _ends(target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends of the range of every row, widened to contain zero, (out, 1)."""
    return target.amin(1, keepdim=True).clamp(max=0), target.amax(1, keepdim=True).clamp(min=0)
