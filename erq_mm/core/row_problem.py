"""One layer's rows as a weighted least-squares problem, centred: what its weight should be, and how errors count.

With rows x of the quantized input, weights w, their mean mu and S = sum w (x - mu)(x - mu)^T, a change D of the
weight (and the bias that goes with it) costs D S D^T. The bias takes up all means, so they never meet the damping.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .gram_sum import GramSum
from .inner_product import inner_product

BLOCK = 128  # columns that are worked on together


class Metric(Protocol):
    """H = (S + lam I) / n, (columns, columns), as a matrix or as the rows behind it."""

    def times(self, change: Tensor) -> Tensor:
        """Return change H, (out, columns)."""

    def block(self, start: int, stop: int) -> Tensor:
        """Return H[start:stop, start:stop]."""

    def spread(self, change: Tensor, start: int, stop: int) -> Tensor:
        """Return what `gradient` needs of a change of columns [start, stop), (out, stop - start)."""

    def gradient(self, state: Tensor, change: Tensor, start: int, stop: int) -> Tensor:
        """Return columns [start, stop) of change H, given those of the change and all that `spread` returned."""

    def objective(self, change: Tensor) -> Tensor:
        """Return change H change^T of every row, (out,)."""


@dataclass(frozen=True)
class MatrixMetric:
    """H itself: for layers with more rows than columns."""

    matrix: Tensor

    def times(self, change: Tensor) -> Tensor:
        return change @ self.matrix

    def block(self, start: int, stop: int) -> Tensor:
        return self.matrix[start:stop, start:stop]

    def spread(self, change: Tensor, start: int, stop: int) -> Tensor:
        return change @ self.matrix[start:stop]

    def gradient(self, state: Tensor, change: Tensor, start: int, stop: int) -> Tensor:
        return state[:, start:stop]

    def objective(self, change: Tensor) -> Tensor:
        return (self.times(change) * change).sum(1)


@dataclass(frozen=True)
class RowsMetric:
    """H = (X^T X + lam I) / n by its rows X, (rows, columns): for fewer rows than columns."""

    rows: Tensor
    lam: float
    count: float

    def times(self, change: Tensor) -> Tensor:
        return ((change @ self.rows.T) @ self.rows + self.lam * change) / self.count

    def block(self, start: int, stop: int) -> Tensor:
        columns = self.rows[:, start:stop]
        gram = columns.T @ columns
        gram.diagonal().add_(self.lam)
        return gram / self.count

    def spread(self, change: Tensor, start: int, stop: int) -> Tensor:
        return change @ self.rows[:, start:stop].T

    def gradient(self, state: Tensor, change: Tensor, start: int, stop: int) -> Tensor:
        return (state @ self.rows[:, start:stop] + self.lam * change) / self.count

    def objective(self, change: Tensor) -> Tensor:
        return ((change @ self.rows.T).square_().sum(1) + self.lam * change.square().sum(1)) / self.count


class RowProblem:
    """min over W, b of sum w ||target - (W x + b)||^2 + lam ||W - W_0||^2, and the metric of its codes.

    Args:
        x: (rows, in), rows of the quantized input.
        residual: (rows, out), what the float weight still lacks: target - (W_0 x + b_0).
        weights: (rows,), not negative; None counts all rows alike.

    Attributes:
        mean: mu, (in,).
        mean_residual: (out,).
    """

    def __init__(self, x: Tensor, residual: Tensor, weights: Tensor | None = None) -> None:
        weights = x.new_ones(len(x)) if weights is None else weights.to(x.dtype)
        self.count = float(weights.sum())
        root = weights.sqrt()[:, None]
        self.mean = weights @ x / max(self.count, 1e-30)
        self.mean_residual = weights @ residual / max(self.count, 1e-30)
        self.rows = (x - self.mean) * root
        self.residual = (residual - self.mean_residual) * root
        self.is_wide = len(x) < x.shape[1]
        self._gram: Tensor | None = None
        self._cross: Tensor | None = None
        self._mean_energy = float(self.rows.square().sum()) / self.rows.shape[1]

    def gram(self) -> Tensor:
        """Return S, (in, in)."""
        if self._gram is None:
            total = GramSum(self.rows.new_zeros(2 * self.rows.shape[1:]))
            total.add(self.rows)
            self._gram = total.whole()
        return self._gram

    def take_gram(self, parts: Iterable['RowProblem']) -> None:
        """Take S from the problems of the parts that the rows were divided into, instead of summing them again.

        S = sum S_p + n_p (mu_p - mu)(mu_p - mu)^T over the parts.
        """
        if self.is_wide:
            return
        total = self.rows.new_zeros(2 * self.rows.shape[1:])
        for part in parts:
            shift = part.mean - self.mean
            total += part.gram()
            total.addr_(shift, shift, alpha=part.count)
        self._gram = total

    def cross(self) -> Tensor:
        """Return sum w (residual - its mean)(x - mu)^T, (out, in)."""
        if self._cross is None:
            self._cross = self.residual.T @ self.rows
        return self._cross

    def damping(self, share: float) -> float:
        """Return lam as a share of the mean diagonal of S; positive also where S is zero."""
        return max(share, 1e-8) * max(self._mean_energy, 1e-12)

    def correction(self, share: float) -> Tensor:
        """Return W* - W_0, (out, in): C_c (S + lam I)^-1 with lam of `damping(share)`.

        Raises:
            FloatingPointError: the solution is not finite.
        """
        lam = self.damping(share)
        if self.is_wide:  # (X^T X + lam I)^-1 X^T = X^T (X X^T + lam I)^-1
            kernel = (self.rows @ self.rows.T).double()
            kernel.diagonal().add_(lam)
            inner = torch.cholesky_solve(self.residual.double(), torch.linalg.cholesky(kernel))
            change = inner.to(self.rows.dtype).T @ self.rows
        else:
            damped = self.gram().to(torch.float64, copy=True)
            damped.diagonal().add_(lam)
            change = torch.cholesky_solve(self.cross().T.double(), torch.linalg.cholesky(damped)).T.to(self.rows.dtype)
        if not bool(torch.isfinite(change).all()):
            raise FloatingPointError('the ridge solution for the activation error is not finite')
        return change.contiguous()

    def bias_change(self, change: Tensor) -> Tensor:
        """Return the change of the bias, (out,), that goes with a change of the weight."""
        return self.mean_residual - change @ self.mean

    def metric(self, share: float) -> Metric:
        """Return H with lam of `damping(share)`."""
        lam, count = self.damping(share), max(self.count, 1e-30)
        if self.is_wide:
            return RowsMetric(self.rows, lam, count)
        matrix = self.gram().clone()
        matrix.diagonal().add_(lam)
        return MatrixMetric(matrix / count)

    def error(self, change: Tensor | None = None) -> float:
        """Return the weighted mean of ||residual - change x||^2 over rows and outputs, the best bias given.

        Args:
            change: (out, in); None is no change.
        """
        if change is None:
            left = self.energy()
        elif self.is_wide:
            rest = self.residual - self.rows @ change.T
            left = float(inner_product(rest, rest))
        else:  # the same from the sums, which are there, and smaller than the rows
            slope = (change @ self.gram()).sub_(self.cross(), alpha=2)
            left = self.energy() + float(inner_product(slope, change))
        return max(left, 0.0) / max(self.count * self.residual.shape[1], 1e-30)

    def corrected_error(self, change: Tensor, share: float) -> float:
        """Return `error` of a change that `correction(share)` gave, without products of matrices.

        From change (S + lam I) = C follows change S change^T = C change^T - lam change change^T.
        """
        if self.is_wide:
            return self.error(change)
        fitted = float(inner_product(self.cross(), change))
        penalty = self.damping(share) * float(inner_product(change, change))
        return max(self.energy() - fitted - penalty, 0.0) / max(self.count * self.residual.shape[1], 1e-30)

    def energy(self) -> float:
        """Return sum w ||residual - its mean||^2."""
        return float(inner_product(self.residual, self.residual))
