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
    return Elimination(gram, damping, act_order).quantize(quantized, weight.double(), block_size)


class Elimination:
    """A damped Gram matrix, factored in the order in which columns are quantized: what weights on it have in common.

    One float64 matrix is all that is kept, 1.3 GB for 12,544 columns: it is damped and factored in place, and the rows
    of U are made when they are needed.

    Args:
        gram, damping, act_order: as of `gptq`.

    Raises:
        ValueError: the damped matrix is not positive definite.
    """

    def __init__(self, gram: Tensor, damping: float = 0.01, act_order: bool = False) -> None:
        self.dead = gram.diagonal() == 0
        self.order = gram.diagonal().argsort(descending=True, stable=True) if act_order else None
        self._lower = _damped_factor(gram, self.order, damping)

    def variances(self) -> Tensor:
        """Return what a squared error in every column costs once all later columns make up for it, (in,)."""
        variances = self._lower.diagonal().square().flip(0)
        return variances if self.order is None else variances[self.order.argsort()]

    def quantize(self, quantized: QuantizedWeight, weight: Tensor, block_size: int = 128) -> QuantizedWeight:
        """Return `weight`, (out, in), on the grid of `quantized`; columns are worked on in the dtype of `weight`."""
        order, grid = self.order, quantized.grid
        work = weight.T.clone(memory_format=torch.contiguous_format)  # (in, out): columns of the weight lie together
        work[self.dead] = 0
        scale, zero_point = (t.to(work.dtype).expand(weight.shape).T for t in (grid.scale_of(), grid.zero_point_of()))
        if order is not None:
            work, scale, zero_point = work[order], scale[order], zero_point[order]
        codes = self._columns(work, scale, zero_point, grid, block_size)
        if order is not None:
            codes = codes[order.argsort()]
        codes = codes.T.to(quantized.codes.dtype, memory_format=torch.contiguous_format)
        return QuantizedWeight(codes, grid, quantized.bias)

    def _columns(self, work: Tensor, scale: Tensor, zero_point: Tensor, grid: WeightGrid, block_size: int) -> Tensor:
        codes = torch.empty_like(work)
        for start in range(0, len(work), block_size):
            stop = min(start + block_size, len(work))
            upper, errors = self._inverse_rows(start, stop).to(work.dtype), torch.empty_like(work[start:stop])
            diagonal = upper.diagonal().tolist()
            parts = (t[start:stop] for t in (work, scale, zero_point, codes))
            for place, (column, step, zero, code, error) in enumerate(zip(*parts, errors, strict=True)):
                code.copy_(grid.nearest_steps_(column / step, zero))
                torch.sub(column, (code - zero).mul_(step), out=error).div_(diagonal[place])
                work[start + place + 1 : stop].addr_(upper[place, place + 1 : stop - start], error, alpha=-1)
            work[stop:].addmm_(upper[:, stop - start :].T, errors, alpha=-1)
        return codes

    def _inverse_rows(self, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of U from column `start` on, (stop - start, columns - start).

        With J the reversal, U = J L^-1 J: its rows are those of L^-1, from the last one up.
        """
        size = len(self._lower)
        wanted = self._lower.new_zeros(size, stop - start)
        wanted.diagonal(stop - size).fill_(1)
        columns = torch.linalg.solve_triangular(self._lower.mT, wanted, upper=True)
        return columns[: size - start].mT.flip(0, 1)


def _damped_factor(gram: Tensor, order: Tensor | None, damping: float) -> Tensor:
    """Return lower triangular L with L L^T = the damped matrix, its rows and columns in reversed order."""
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
