"""Quantizers with a shape beside the scale, both found by search: over values, or over outputs they lead to."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ..grid_search import Candidate, Lattice, progressive_search
from ..histogram import Histogram
from .base import Quantizer

BEAM = 16


class SearchedQuantizer(Quantizer):
    """A quantizer with one further parameter, a buffer that `shape_name` names.

    Attributes:
        search_steps: of the progressive search unless told otherwise; 1 tries every candidate.
    """

    shape_name: ClassVar[str]
    search_steps: ClassVar[int]

    @abstractmethod
    def lattice(self, histogram: Histogram) -> Lattice:
        """Return the candidate scales and shapes."""

    @abstractmethod
    def values_of(self, histogram: Histogram) -> Tensor:
        """Return the values that the bins stand for, float64 (bins,)."""

    def set_candidate(self, candidate: Candidate) -> None:
        """Store scale and shape in the buffers."""
        self.store(**{'scale': candidate[0], 'zero_point': 0.0, self.shape_name: candidate[1]})

    def fit(self, histogram: Histogram) -> None:
        """Choose scale and shape of least squared error of the values."""
        self.search(histogram)

    def search(
        self,
        histogram: Histogram,
        error: Callable[[], Tensor] | None = None,
        beam: int = BEAM,
        steps: int | None = None,
    ) -> None:
        """Choose scale and shape of least error, and store them.

        Args:
            histogram: of the values, as `observe` filled it.
            error: returns the error, a scalar, of the quantizer as it stands when called; None is the squared error of
                the values.
            beam, steps: of `grid_search.progressive_search`; `steps=None` takes those of the grid.
        """
        error = error or self._value_error(histogram)

        def evaluate(candidate: Candidate) -> Tensor:
            self.set_candidate(candidate)
            return error()

        lattice = self.lattice(histogram)
        self.set_candidate(progressive_search(lattice, evaluate, beam, self.search_steps if steps is None else steps))

    def _value_error(self, histogram: Histogram) -> Callable[[], Tensor]:
        counts = histogram.counts.sum(0)
        occupied = counts > 0
        values, counts = self.values_of(histogram)[occupied], counts[occupied]
        return lambda: torch.dot((self.fake_quantize(values) - values).square_(), counts)
