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
    change = weight - target
    return (metric.times(change) * change).sum(1)


def coordinate_descent(quantized: QuantizedWeight, target: Tensor, metric: Metric) -> QuantizedWeight:
    """Visit every column once, and give its codes the best values while all others stay.

    Args:
        quantized: codes to start from, and a grid of one group.
        target: W*, (out, in).
        metric: H.
    """
    grid, codes = quantized.grid, quantized.codes.clone()
    change = grid.decode(codes) - target
    columns = target.shape[1]
    blocks = [(start, min(start + BLOCK, columns)) for start in range(0, columns, BLOCK)]
    state = sum(metric.spread(change[:, start:stop], start, stop) for start, stop in blocks)
    for start, stop in blocks:
        moved = _descend(
            codes, change, metric.gradient(state, change, start, stop), metric.block(start, stop), grid, start
        )
        state += metric.spread(moved, start, stop)
    return replace(quantized, codes=codes)


def _descend(codes: Tensor, change: Tensor, gradient: Tensor, block: Tensor, grid: WeightGrid, start: int) -> Tensor:
    """Work through one block of columns in place and return what was added to the weight there.

    Args:
        codes, change: (out, in), written.
        gradient: the block's columns of change H.
        block: H within the block.
    """
    scale = grid.scale[:, 0]
    gradient, moved = gradient.clone(), torch.zeros_like(gradient)
    diagonal = block.diagonal().clamp(min=1e-30).tolist()
    for offset, curvature in enumerate(diagonal):
        column = start + offset
        step = gradient[:, offset] / (scale * -curvature)
        wanted = (codes[:, column] + step).round_().clamp_(0, grid.max_code)
        delta = (wanted - codes[:, column]) * scale
        codes[:, column] = wanted
        change[:, column] += delta
        moved[:, offset] = delta
        gradient.addcmul_(delta[:, None], block[offset])
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
