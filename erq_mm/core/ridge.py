"""Ridge regression on the columns of one Gram matrix G + lam I: whole, and for every suffix of the columns.

Wqer fixes the columns of a weight from left to right, so all its solves are with trailing blocks of one matrix. With
G + lam I = U U^T, U upper triangular, the trailing blocks of U factor the trailing blocks of the matrix: one
factorization serves Aqer and every step of Wqer. Solves run in float64; products in the dtype of the statistics.
"""

from typing import Protocol

import torch
from torch import Tensor


class RidgeSystem(Protocol):
    """A damped Gram matrix of size D = in + 1, the last column being the ones column of the bias."""

    lam: float

    def solve(self, rhs: Tensor) -> Tensor:
        """Return (G + lam I)^-1 rhs, shape (D, k)."""

    def proxy(self, start: int, stop: int, compensated: bool) -> Tensor:
        """Return the matrix C of the rounding proxy d C d^T for columns [start, stop), unnormalised."""

    def propagate(self, error: Tensor, start: int, stop: int) -> Tensor:
        """Return -error G_sr (G_rr + lam I)^-1, the correction of columns [stop, D) (ERQ, Eq. 17); error (rows, s)."""


class PrimalSystem:
    """The matrix itself, factored once: for layers with more rows than columns.

    Args:
        gram: (D, D), symmetric, unnormalised sums.
        lam: the damping, in the units of `gram`, not negative.

    Raises:
        ValueError: the damped matrix is not positive definite (zero damping and dependent columns), or has NaN.
    """

    def __init__(self, gram: Tensor, lam: float) -> None:
        self.gram, self.lam = gram, lam
        damped = gram.double().flip(0, 1)
        damped.diagonal().add_(lam)
        lower, info = torch.linalg.cholesky_ex(damped)
        if int(info) != 0:
            raise ValueError(
                f'the Gram matrix ({len(gram)} columns) damped by {lam:g} is not positive definite: '
                'raise the damping (`lam`), or look for NaN in the inputs of the layer'
            )
        self.factor = lower.flip(0, 1)  # upper triangular U with G + lam I = U U^T

    def solve(self, rhs: Tensor) -> Tensor:
        return _solve_upper(self.factor, rhs.double()).to(rhs.dtype)

    def proxy(self, start: int, stop: int, compensated: bool) -> Tensor:
        if compensated:  # the Schur complement of the remaining columns: what is left after the ridge step
            block = self.factor[start:stop, start:stop].to(self.gram.dtype)
            return block @ block.T
        return self.gram[start:stop, start:stop].contiguous()

    def propagate(self, error: Tensor, start: int, stop: int) -> Tensor:
        cross = error @ self.gram[start:stop, stop:]
        return -_solve_upper(self.factor[stop:, stop:], cross.T.double()).T.to(error.dtype)


class DualSystem:
    """The same system held as rows X, G = X^T X, for fewer rows than columns: kernels of (rows, rows) instead.

    Args:
        rows: X, (n, D).
        lam: the damping, in the units of X^T X, positive.
    """

    def __init__(self, rows: Tensor, lam: float) -> None:
        if not lam > 0:
            raise ValueError(f'the dual form needs a positive damping, got {lam!r}: raise `lam`')
        self.rows, self.lam = rows, lam
        self._kernel: tuple[int, Tensor] | None = None  # first column -> factor: proxy and propagate share one

    def solve(self, rhs: Tensor) -> Tensor:
        # (X^T X + lam I)^-1 b = (b - X^T (X X^T + lam I)^-1 X b) / lam
        inner = self._kernel_solve(0, self.rows @ rhs)
        return (rhs - self.rows.T @ inner) / self.lam

    def proxy(self, start: int, stop: int, compensated: bool) -> Tensor:
        columns = self.rows[:, start:stop]
        if not compensated:
            return columns.T @ columns
        # Schur complement by the push-through identity: lam X_s^T (X_r X_r^T + lam I)^-1 X_s + lam I
        schur = self.lam * (columns.T @ self._kernel_solve(stop, columns))
        schur.diagonal().add_(self.lam)
        return schur

    def propagate(self, error: Tensor, start: int, stop: int) -> Tensor:
        output_error = self.rows[:, start:stop] @ error.T
        return -(self.rows[:, stop:].T @ self._kernel_solve(stop, output_error)).T

    def _kernel_solve(self, start: int, rhs: Tensor) -> Tensor:
        """Return (X_r X_r^T + lam I)^-1 rhs with X_r the columns from `start` on."""
        if self._kernel is None or self._kernel[0] != start:
            remaining = self.rows[:, start:]
            kernel = (remaining @ remaining.T).double()
            kernel.diagonal().add_(self.lam)
            self._kernel = (start, torch.linalg.cholesky(kernel))
        return torch.cholesky_solve(rhs.double(), self._kernel[1]).to(rhs.dtype)


def _solve_upper(factor: Tensor, rhs: Tensor) -> Tensor:
    """Return (U U^T)^-1 rhs for upper triangular U."""
    inner = torch.linalg.solve_triangular(factor, rhs, upper=True)
    return torch.linalg.solve_triangular(factor.T, inner, upper=False)


def damping(mode: str, value: float, mean_energy: float, count: int) -> float:
    """Return lam in the units of the unnormalised Gram matrix.

    Args:
        mode: `sum` takes `value` as it is (the released code: 0.1 * coe); `mean` is lam of the paper's expectations,
            value * count; `relative` is a fraction of the mean diagonal of the Gram matrix.
        mean_energy: mean diagonal of the Gram matrix, bias column excluded.
        count: number of rows.

    Returns:
        A positive number, also for an input that was zero throughout (then nothing is corrected).
    """
    if mode not in LAMBDA_MODES:
        raise ValueError(f'lam_mode must be one of {LAMBDA_MODES}, got {mode!r}')
    if not value >= 0:
        raise ValueError(f'lam must not be negative, got {value!r}')
    lam = {'sum': value, 'mean': value * count, 'relative': value * mean_energy}[mode]
    return max(lam, 1e-8 * mean_energy, 1e-12)


LAMBDA_MODES = ('sum', 'mean', 'relative')
