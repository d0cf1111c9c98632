"""Codes and scales given a metric H: cyclic coordinate descent, and the scale of least error for fixed codes.

The objective of one row is (q - w) H (q - w)^T, q = s (c - z); neither step ever raises it.
"""

from dataclasses import replace

import torch
from torch import Tensor

from .row_problem import BLOCK, Metric
from .weight_grid import QuantizedWeight, WeightGrid


def row_objective(weight: Tensor, target: Tensor, metric: Metric) -> Tensor:
    """Return (q - w) H (q - w)^T of every row, (out,)."""
    return metric.objective(weight - target)


def coordinate_descent(quantized: QuantizedWeight, target: Tensor, metric: Metric) -> QuantizedWeight:
    """Visit every column once, and give its codes the best values while all others stay.

    Args:
        quantized: codes to start from, and a grid of one group.
        target: W*, (out, in).
        metric: H.
    """
    grid = quantized.grid
    codes = quantized.codes.T.clone(memory_format=torch.contiguous_format)  # (in, out): a column's codes lie together
    change = grid.decode(quantized.codes) - target
    columns = target.shape[1]
    blocks = [(start, min(start + BLOCK, columns)) for start in range(0, columns, BLOCK)]
    state = sum(metric.spread(change[:, start:stop], start, stop) for start, stop in blocks)
    for start, stop in blocks:
        gradient = metric.gradient(state, change[:, start:stop], start, stop).T.contiguous()
        moved = _descend(codes[start:stop], gradient, metric.block(start, stop), grid).T
        if stop < columns:
            state += metric.spread(moved, start, stop)
    return replace(quantized, codes=codes.T.contiguous())


def _descend(codes: Tensor, gradient: Tensor, block: Tensor, grid: WeightGrid) -> Tensor:
    """Work through the codes of one block of columns in place and return what was added to the weight there.

    Args:
        codes, gradient: (columns, out), both written; the gradient is that of half the objective.
        block: H within the block.
    """
    scale, moved = grid.scale[:, 0], torch.empty_like(gradient)
    curvatures = block.diagonal().clamp(min=1e-30).tolist()
    for place, (column, slope, step) in enumerate(zip(codes, gradient, moved, strict=True)):
        best = grid.nearest_(torch.addcdiv(column, slope, scale, value=-1 / curvatures[place]))
        torch.sub(best, column, out=step).mul_(scale)
        column.copy_(best)
        gradient[place + 1 :].addr_(block[place, place + 1 :], step)
    return moved


def refit_scale(quantized: QuantizedWeight, target: Tensor, metric: Metric) -> QuantizedWeight:
    """Return the same codes with s = <w H, c> / <c H, c> per row, the scale of least error.

    Rows whose best scale would not be positive keep theirs.
    """
    grid = quantized.grid
    centred = quantized.codes - grid.zero_point
    product = metric.times(centred)
    scale = (product * target).sum(1, keepdim=True) / (product * centred).sum(1, keepdim=True)
    scale = torch.where(torch.isfinite(scale) & (scale > 0), scale, grid.scale)
    return replace(quantized, grid=replace(grid, scale=scale))
