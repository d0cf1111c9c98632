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
    work, grid = weight.double().clone(), quantized.grid
    work[:, gram.diagonal() == 0] = 0
    order = gram.diagonal().argsort(descending=True, stable=True) if act_order else None
    if order is not None:
        work = work[:, order]
    scale = grid.scale_of().double().expand(weight.shape)
    zero_point = grid.zero_point_of().double().expand(weight.shape)
    if order is not None:
        scale, zero_point = scale[:, order], zero_point[:, order]
    codes = _quantize_columns(work, _damped_factor(gram, order, damping), scale, zero_point, grid, block_size)
    if order is not None:
        codes = codes[:, order.argsort()]
    return QuantizedWeight(codes.to(weight.dtype), grid, quantized.bias)


def _damped_factor(gram: Tensor, order: Tensor | None, damping: float) -> Tensor:
    """Return lower triangular L with L L^T = the damped matrix, its rows and columns in reversed order.

    One float64 matrix is all that is kept, 1.3 GB for 12,544 columns: it is damped and factored in place, and the rows
    of U are made when they are needed (`_inverse_rows`).
    """
    if order is None:
        damped = gram.flip(0, 1).double()
    else:
        reversed_order = order.flip(0)
        damped = gram[reversed_order[:, None], reversed_order].double()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal.add_(damping * diagonal.mean())
    lower = damped.mT  # the same matrix, in the layout that LAPACK works in
    info = torch.empty((), dtype=torch.int32, device=gram.device)
    torch.linalg.cholesky_ex(lower, out=(lower, info))
    if int(info) != 0:
        raise ValueError(
            f'the Gram matrix ({len(gram)} columns) damped by {damping:g} of its mean diagonal is not positive '
            'definite: raise `damping`, or look for NaN in the inputs of the layer'
        )
    return lower


def _inverse_rows(lower: Tensor, start: int, stop: int) -> Tensor:
    """Return rows [start, stop) of U from column `start` on, (stop - start, columns - start).

    With J the reversal, U = J L^-1 J: its rows are those of L^-1, from the last one up.
    """
    size = len(lower)
    wanted = lower.new_zeros(size, stop - start)
    wanted.diagonal(stop - size).fill_(1)
    columns = torch.linalg.solve_triangular(lower.mT, wanted, upper=True)
    return columns[: size - start].mT.flip(0, 1)


def _quantize_columns(
    work: Tensor, lower: Tensor, scale: Tensor, zero_point: Tensor, grid: WeightGrid, block_size: int
) -> Tensor:
    codes = torch.empty_like(work)
    for start in range(0, work.shape[1], block_size):
        stop = min(start + block_size, work.shape[1])
        upper, errors = _inverse_rows(lower, start, stop), torch.empty_like(work[:, start:stop])
        for j in range(start, stop):
            column, row = work[:, j], upper[j - start, j - start : stop - start]
            codes[:, j] = (torch.round(column / scale[:, j]) + zero_point[:, j]).clamp_(0, grid.max_code)
            error = (column - (codes[:, j] - zero_point[:, j]) * scale[:, j]) / row[0]
            work[:, j + 1 : stop] -= error[:, None] * row[1:]
            errors[:, j - start] = error
        work[:, stop:] -= errors @ upper[:, stop - start :]
    return codes
