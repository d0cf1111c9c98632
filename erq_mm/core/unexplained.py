"""How much of the variance of a reference an approximation leaves unexplained, in memory that does not grow with it."""

import math

import torch
from torch import Tensor

NUMBERS_PER_CHUNK = 2**20  # widened to float64 at a time


class UnexplainedVariance:
    """The fraction sum |q - f|^2 / sum |f - mean f|^2 over all numbers f of a reference and q of its approximation.

    It is 1 - R^2, the coefficient of determination's complement: 0 for the reference itself, 1 for what knows no more
    than the mean of all numbers, and above 1 for what is worse. Sums about the mean are merged chunk by chunk as in
    Chan, Golub and LeVeque, "Algorithms for computing the sample variance" (1983), so a mean far above the deviation
    costs no digits.

    Attributes:
        count: numbers so far. error: sum |q - f|^2. mean: of the reference. scatter: sum |f - mean|^2.
    """

    def __init__(self) -> None:
        self.count, self.error, self.mean, self.scatter = 0, 0.0, 0.0, 0.0

    def add(self, reference: Tensor, approximation: Tensor) -> None:
        """Add tensors of equal shape.

        Raises:
            ValueError: the shapes differ.
        """
        if reference.shape != approximation.shape:
            raise ValueError(
                f'an output is {tuple(approximation.shape)} and that of the reference {tuple(reference.shape)}: only '
                'outputs of the same places of the same images can be compared'
            )
        chunks = (tensor.detach().reshape(-1).split(NUMBERS_PER_CHUNK) for tensor in (reference, approximation))
        for f, q in zip(*chunks, strict=True):
            if len(f):
                self._add_chunk(f.double(), q.double())

    def _add_chunk(self, f: Tensor, q: Tensor) -> None:
        mean = f.mean()
        sums = torch.stack([mean, (f - mean).square().sum(), (q - f).square().sum()])
        own_mean, own_scatter, error = sums.tolist()  # one transfer from a GPU
        total, distance = self.count + len(f), own_mean - self.mean
        self.scatter += own_scatter + distance**2 * self.count * len(f) / total
        self.mean += distance * len(f) / total
        self.count, self.error = total, self.error + error

    @property
    def fraction(self) -> float | None:
        """The fraction; None where there is none: nothing added, a constant reference, or numbers that are not finite.

        A constant reference that is met exactly is explained: 0.
        """
        if self.count and self.error == 0:
            return 0.0
        if not self.scatter > 0 or not math.isfinite(self.scatter) or not math.isfinite(self.error):
            return None
        return self.error / self.scatter
