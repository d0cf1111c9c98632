"""What calibration keeps of a layer's inputs: sums of outer products, or a bounded sample of rows for very wide layers.

Aqer and Wqer (ERQ, Eq. 8 and 17) only need sum x_q x_q^T, sum x_q (W (x - x_q))^T and the count, so memory does not
depend on the number of calibration images. A column of ones stands for the bias everywhere: it is the last column.
"""

import torch
from torch import Tensor

from .gram_sum import GramSum
from .inner_product import inner_product
from .reservoir import Reservoir
from .ridge import DualSystem, PrimalSystem, RidgeSystem

ROWS_PER_CHUNK = 8192
QUADRATIC_COLUMNS = 192  # of a block of a quadratic form


def quadratic_form(change: Tensor, gram: Tensor) -> float:
    """Return the trace of change gram change^T for a symmetric matrix; change is (rows, columns of the matrix)."""
    total, step = 0.0, max(QUADRATIC_COLUMNS, -(-len(gram) // 4))
    for start in range(0, len(gram), step):  # what lies right of the diagonal's blocks counts twice
        block = change[:, start : start + step]
        product = block @ gram[start : start + step, start:]
        total += float(inner_product(product[:, : block.shape[1]], block))
        total += 2 * float(inner_product(product[:, block.shape[1] :], change[:, start + step :]))
    return total


class GramStats:
    """Running sums over rows of a layer's float input x and its fake-quantized value x_q.

    Args:
        weight: (out, in), the float weight whose output error is recorded.

    Attributes:
        gram: sum of [x_q, 1] [x_q, 1]^T, (in + 1, in + 1).
        cross: sum of [x_q, 1] t^T; t is the output error W (x - x_q) when that has fewer entries than the input
            error x - x_q, and the input error otherwise.
        energy: sum of ||W (x - x_q)||^2.
        count: number of rows.
    """

    def __init__(self, weight: Tensor) -> None:
        out_features, in_features = weight.shape
        self.weight = weight
        self.keeps_output_error = out_features <= in_features
        size = in_features + 1
        self._gram = weight.new_zeros(size, size)
        self._inner = GramSum(self._gram[:-1, :-1])
        self.cross = weight.new_zeros(size, out_features if self.keeps_output_error else in_features)
        if self.keeps_output_error:  # sum of ||W e||^2
            self._squares = weight.new_zeros((), dtype=torch.float64)
        else:  # sum of e e^T: cheaper than every row's W e, which nothing else needs
            self._squares = GramSum(weight.new_zeros(in_features, in_features))
        self.count = 0
        self._output_cross: Tensor | None = None
        self._energy: float | None = None

    def add(self, x: Tensor, x_q: Tensor) -> None:
        """Add rows, both (rows, in)."""
        self._output_cross = self._energy = None
        for part, part_q in zip(x.split(ROWS_PER_CHUNK), x_q.split(ROWS_PER_CHUNK), strict=True):
            self._add_chunk(part - part_q, part_q)

    def _add_chunk(self, input_error: Tensor, x_q: Tensor) -> None:
        target = input_error @ self.weight.T if self.keeps_output_error else input_error
        inner = slice(0, x_q.shape[1])
        self._inner.add(x_q)
        column_sum = x_q.sum(0)
        self._gram[-1, inner] += column_sum
        self._gram[inner, -1] += column_sum
        self._gram[-1, -1] += len(x_q)
        self.cross[inner].addmm_(x_q.T, target)
        self.cross[-1] += target.sum(0)
        if self.keeps_output_error:
            flat = target.reshape(-1)
            self._squares += torch.dot(flat, flat)
        else:
            self._squares.add(input_error)
        self.count += len(x_q)

    @property
    def gram(self) -> Tensor:
        self._inner.whole()
        return self._gram

    @property
    def energy(self) -> float:
        if self.keeps_output_error:
            return float(self._squares)
        if self._energy is None:  # sum e^T (W^T W) e, computed once, after the last row
            self._energy = float(inner_product(self.weight.T @ self.weight, self._squares.whole()))
        return self._energy

    def output_cross(self) -> Tensor:
        """Return sum [x_q, 1] (W (x - x_q))^T, (in + 1, out); computed once, after the last row."""
        if self._output_cross is None:
            self._output_cross = self.cross if self.keeps_output_error else self.cross @ self.weight.T
        return self._output_cross

    def input_gram(self) -> Tensor:
        """Return sum x_q x_q^T, (in, in), without the column of ones."""
        return self.gram[:-1, :-1]

    def system(self, lam: float) -> RidgeSystem:
        """Return the damped Gram matrix, ready to solve with."""
        return PrimalSystem(self.gram, lam)

    def mean_energy(self) -> float:
        """Return the mean diagonal of sum x_q x_q^T, bias column excluded."""
        return float(self.gram.diagonal()[:-1].double().mean())

    def output_mse(self, change: Tensor) -> float:
        """Return the mean of ||W x - (W + change) x_q||^2 over rows and outputs; `change` is (out, in + 1)."""
        linear = float(inner_product(change, self.output_cross().T))
        quadratic = quadratic_form(change, self.gram)
        return max(self.energy - 2 * linear + quadratic, 0.0) / max(self.count * len(change), 1)


class RowStats:
    """A uniform random sample of at most `capacity` rows of a very wide input, over all calls (reservoir sampling).

    Used where rows are fewer than columns by far (the first fully connected layer of a box head has 12,544 columns and
    1,000 rows an image): a Gram matrix would cost more than the rows. Same interface as `GramStats`.
    """

    def __init__(self, weight: Tensor, capacity: int = 2048, seed: int = 0) -> None:
        self.weight = weight
        self.rows = weight.new_zeros(capacity, weight.shape[1] + 1)
        self.rows[:, -1] = 1
        self.input_error = weight.new_zeros(capacity, weight.shape[1])
        self._reservoir = Reservoir(capacity, seed)
        self._errors: Tensor | None = None
        self._output_cross: Tensor | None = None

    @property
    def count(self) -> int:
        return self._reservoir.count

    def add(self, x: Tensor, x_q: Tensor) -> None:
        """Offer rows, both (rows, in), to the sample."""
        chosen, slots = self._reservoir.choose(len(x), x.device)
        self.rows[slots, :-1] = x_q[chosen]
        self.input_error[slots] = x[chosen] - x_q[chosen]
        self._errors = self._output_cross = None

    def _output_error(self) -> Tensor:
        """Return W (x - x_q) of the rows kept, (rows, out); computed once, after the last row."""
        if self._errors is None:
            self._errors = self.input_error[: self.count] @ self.weight.T
        return self._errors

    @property
    def energy(self) -> float:
        errors = self._output_error()
        return float(inner_product(errors, errors))

    def output_cross(self) -> Tensor:
        if self._output_cross is None:
            self._output_cross = self.rows[: self.count].T @ self._output_error()
        return self._output_cross

    def input_gram(self) -> Tensor:
        inner = self.rows[: self.count, :-1]
        return inner.T @ inner

    def system(self, lam: float) -> RidgeSystem:
        return DualSystem(self.rows[: self.count], lam)

    def mean_energy(self) -> float:
        return float(self.rows[: self.count, :-1].square().mean(dtype=torch.float64)) * self.count

    def output_mse(self, change: Tensor) -> float:
        error = self._output_error() - self.rows[: self.count] @ change.T
        return float(inner_product(error, error)) / max(error.numel(), 1)


InputStats = GramStats | RowStats
DUAL_COLUMNS = 4096  # wider inputs are sampled row by row: their Gram matrix would outweigh the rows


def input_stats(weight: Tensor, sampled_rows: int, seed: int) -> InputStats:
    """Return empty statistics of the inputs of a layer; `sampled_rows` and `seed` are for very wide ones."""
    if weight.shape[1] > DUAL_COLUMNS:
        return RowStats(weight, sampled_rows, seed)
    return GramStats(weight)
