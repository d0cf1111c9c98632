"""GPTQ (ICLR 2023): quantize column by column, compensating each column's error in those not yet quantized.

With H = X^T X damped by a share of its mean diagonal and H^-1 = U^T U, U upper triangular, the error e of column j,
divided by U_jj, is spread over the later columns by row j of U.
"""

import torch
from torch import Tensor

from .weight_grid import QuantizedWeight, WeightGrid


def gptq(
    quantized: QuantizedWeight,
    weight: Tensor,
    gram: Tensor,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    block_size: int = 128,
) -> QuantizedWeight:
    """Return the weight quantized on the grid of `quantized`; the bias stays.

    Args:
        weight: the float weight, (out, in).
        gram: sum of x_q x_q^T, (in, in). Columns that were never non-zero get the code of zero.
        damping: share of the mean diagonal added to the diagonal, positive.
        act_order: quantize the columns of largest energy first.
        block_size: columns whose errors are gathered before they reach the later ones; does not change the result.

    Raises:
        ValueError: the damped matrix is not positive definite.
    """
    gram, work, grid = gram.double().clone(), weight.double().clone(), quantized.grid
    dead = gram.diagonal() == 0
    gram.diagonal()[dead] = 1
    work[:, dead] = 0
    order = gram.diagonal().argsort(descending=True, stable=True) if act_order else None
    if order is not None:
        gram, work = gram[order][:, order], work[:, order]
    upper = _inverse_factor(gram, damping)
    scale = grid.scale_of().double().expand(work.shape)
    zero_point = grid.zero_point_of().double().expand(work.shape)
    if order is not None:
        scale, zero_point = scale[:, order], zero_point[:, order]
    codes = _quantize_columns(work, upper, scale, zero_point, grid, block_size)
    if order is not None:
        codes = codes[:, order.argsort()]
    return QuantizedWeight(codes.to(weight.dtype), grid, quantized.bias)


def _inverse_factor(gram: Tensor, damping: float) -> Tensor:
    """Return upper triangular U with (G + damping mean(diag G) I)^-1 = U^T U."""
    gram.diagonal().add_(damping * gram.diagonal().mean())
    # G = L L^T with its rows and columns reversed gives the inverse's factor by one triangular solve
    lower, info = torch.linalg.cholesky_ex(gram.flip(0, 1))
    if int(info) != 0:
        raise ValueError(
            f'the Gram matrix ({len(gram)} columns) damped by {damping:g} of its mean diagonal is not positive '
            'definite: raise `damping`, or look for NaN in the inputs of the layer'
        )
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)


def _quantize_columns(
    work: Tensor, upper: Tensor, scale: Tensor, zero_point: Tensor, grid: WeightGrid, block_size: int
) -> Tensor:
    codes = torch.empty_like(work)
    for start in range(0, work.shape[1], block_size):
        stop = min(start + block_size, work.shape[1])
        errors = torch.empty_like(work[:, start:stop])
        for j in range(start, stop):
            column = work[:, j]
            codes[:, j] = (torch.round(column / scale[:, j]) + zero_point[:, j]).clamp_(0, grid.max_code)
            error = (column - (codes[:, j] - zero_point[:, j]) * scale[:, j]) / upper[j, j]
            work[:, j + 1 : stop] -= error[:, None] * upper[j, j + 1 : stop]
            errors[:, j - start] = error
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes
