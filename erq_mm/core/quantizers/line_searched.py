"""Quantizers with one number to choose, tried value by value: what PTQ4ViT's search needs of a grid."""

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..histogram import Histogram
from ..line_search import line_search
from .base import Quantizer


class LineSearchedQuantizer(Quantizer):
    """A quantizer whose one parameter is the scale, unless a grid says otherwise."""

    @abstractmethod
    def values_of(self, histogram: Histogram) -> Tensor:
        """Return the values that the bins stand for, float64 (bins,)."""

    @property
    def parameter(self) -> float:
        """The number to choose."""
        return self.numbers['scale']

    def set_parameter(self, value: float) -> None:
        """Change that number; everything else stays."""
        self.store(scale=value)

    def candidates(self, factors: Sequence[float]) -> list[float]:
        """Return the values to try: multiples of the present scale."""
        return [self.parameter * factor for factor in factors]

    def search(self, candidates: Sequence[float], error: Callable[[], Tensor]) -> float:
        """Keep the best of the candidates and the present parameter, which wins a tie, and return its error.

        Args:
            error: returns the error, a scalar, of the quantizer as it stands when called.
        """

        def evaluate(value: float) -> Tensor:
            self.set_parameter(value)
            return error()

        best, least = line_search([self.parameter, *candidates], evaluate)
        self.set_parameter(best)
        return least

    def value_error(self, histogram: Histogram) -> Callable[[], Tensor]:
        """Return a function that gives the squared error of the values in a histogram."""
        counts = histogram.counts.sum(0)
        occupied = counts > 0
        values, counts = self.values_of(histogram)[occupied], counts[occupied]
        return lambda: torch.dot((self.fake_quantize(values) - values).square_(), counts)
