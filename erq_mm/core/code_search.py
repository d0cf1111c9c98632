"""The codes of a weight for a given metric: GPTQ on several ranges, the best of them row by row, then descent."""

from dataclasses import replace

import torch
from torch import Tensor

from .coordinate_descent import coordinate_descent, refit_scale, row_objective
from .gptq import gptq
from .row_gptq import gptq_on_rows
from .row_problem import MatrixMetric, Metric, RowsMetric
from .scale_search import affine_parameters
from .spec import QuantSpec
from .weight_grid import QuantizedWeight, WeightGrid, fit_weight_grid, round_to_nearest

SHRINKS = (1.0, 0.83, 0.67, 0.5)  # of the range from minimum to maximum
WIDE, WIDE_SHRINKS = 4096, (1.0, 0.83)


def search_codes(target: Tensor, metric: Metric, spec: QuantSpec) -> QuantizedWeight:
    """Return the weight on its grid, without a bias.

    Layers of more than 4,096 columns are tried on fewer ranges and visited once, and those whose metric is held as rows
    on the range of least squared error alone.

    Args:
        target: W*, (out, in).
        metric: H.
        spec: of the weight; one grid per row.

    Raises:
        ValueError: a grid of two groups, which has no single scale to refit.
    """
    if spec.grid == 'dual_uniform':
        raise ValueError("weights with two scales per row (grid 'dual_uniform') cannot be searched by descent")
    is_wide = target.shape[1] > WIDE
    nearest = round_to_nearest(target, None, fit_weight_grid(target, spec))
    if isinstance(metric, RowsMetric):
        found = gptq_on_rows(nearest, target, metric)
    else:
        found = _best_range(nearest.grid, target, metric, spec, WIDE_SHRINKS if is_wide else SHRINKS)
    found = _better_rows(found, nearest, target, metric)
    found = coordinate_descent(found, target, metric)
    if is_wide:
        return found
    return coordinate_descent(refit_scale(found, target, metric), target, metric)


def _better_rows(found: QuantizedWeight, other: QuantizedWeight, target: Tensor, metric: Metric) -> QuantizedWeight:
    """Return, row by row, the weight of the smaller objective."""
    objectives = [row_objective(weight.weight, target, metric) for weight in (found, other)]
    is_better = (objectives[1] < objectives[0])[:, None]
    scale = torch.where(is_better, other.grid.scale, found.grid.scale)
    zero_point = torch.where(is_better, other.grid.zero_point, found.grid.zero_point)
    codes = torch.where(is_better, other.codes, found.codes)
    return replace(found, codes=codes, grid=replace(found.grid, scale=scale, zero_point=zero_point))


def _best_range(
    fitted: WeightGrid, target: Tensor, metric: MatrixMetric, spec: QuantSpec, shrinks: tuple[float, ...]
) -> QuantizedWeight:
    """Run GPTQ on all candidate ranges at once, as further rows, and keep the best of every row."""
    grids = [fitted, *_shrunk_grids(fitted, target, spec, shrinks)]
    scale, zero_point = torch.cat([g.scale for g in grids]), torch.cat([g.zero_point for g in grids])
    grid = WeightGrid(scale.to(target.dtype), zero_point.to(target.dtype), spec.max_code)
    stacked = target.repeat(len(grids), 1)
    found = gptq(QuantizedWeight(stacked, grid, None), stacked, metric.matrix, damping=0.0, act_order=True)
    objective = row_objective(found.weight, stacked, metric).view(len(grids), -1)
    rows = objective.argmin(0) * len(target) + torch.arange(len(target), device=target.device)
    return replace(
        found, codes=found.codes[rows], grid=replace(grid, scale=grid.scale[rows], zero_point=grid.zero_point[rows])
    )


def _shrunk_grids(fitted: WeightGrid, target: Tensor, spec: QuantSpec, shrinks: tuple[float, ...]) -> list[WeightGrid]:
    if spec.grid == 'symmetric':
        return [replace(fitted, scale=fitted.scale * shrink) for shrink in shrinks if shrink != 1]
    low, high = target.amin(1, keepdim=True).clamp(max=0), target.amax(1, keepdim=True).clamp(min=0)
    return [WeightGrid(*affine_parameters(low * s, high * s, spec.max_code), spec.max_code) for s in shrinks]
