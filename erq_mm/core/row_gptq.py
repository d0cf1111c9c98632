"""GPTQ on a metric that is held as rows: for the widest layers, whose matrix would outweigh the rows many times.

With errors E of the columns done, seen in row space as E X_done^T, the best correction of all columns from the next
block on is -(E X_done^T) K^-1 X, K = X X^T + lam I over these columns; the metric within the block is the Schur
complement of what lies behind it. Both need kernels of (rows, rows) only, one factorization a block.
"""

from dataclasses import replace

import torch
from torch import Tensor

from .gptq import Elimination
from .row_problem import RowsMetric
from .weight_grid import QuantizedWeight

BLOCK = 512


def gptq_on_rows(quantized: QuantizedWeight, target: Tensor, metric: RowsMetric, block: int = BLOCK) -> QuantizedWeight:
    """Return the weight quantized on the grid of `quantized`, of one group, column by column from left to right.

    Args:
        target: W*, (out, in).
        block: columns between two factorizations; does not change the result but for rounding errors.
    """
    rows, lam, dtype = metric.rows, metric.lam, target.dtype
    kernel = (rows @ rows.T).double()
    kernel.diagonal().add_(lam)
    factor = torch.linalg.cholesky(kernel).to(dtype)
    seen = target.new_zeros(len(rows), len(target))  # X_done E^T
    codes = torch.empty_like(target)
    for start in range(0, target.shape[1], block):
        columns, wanted = rows[:, start : start + block], target[:, start : start + block]
        pulled = wanted - torch.cholesky_solve(seen, factor).T @ columns if start else wanted
        kernel -= (columns @ columns.T).double()
        factor = torch.linalg.cholesky(kernel).to(dtype)
        half = torch.linalg.solve_triangular(factor, columns, upper=False)
        schur = lam * (half.T @ half)
        schur.diagonal().add_(lam)
        done = Elimination(schur, damping=0.0).quantize(replace(quantized, codes=wanted), pulled)
        codes[:, start : start + block] = done.codes
        seen += columns @ (done.weight - wanted).T
    return replace(quantized, codes=codes)
