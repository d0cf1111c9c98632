"""Symmetric uniform grid (PTQ4ViT, ECCV 2022): x_q = s clamp(round(x / s), -2**(b - 1), 2**(b - 1) - 1)."""

from torch import Tensor

from ..histogram import Histogram
from ..scale_search import symmetric_scale
from .line_searched import LineSearchedQuantizer
from .uniform import UniformQuantizer


class SymmetricQuantizer(UniformQuantizer, LineSearchedQuantizer):
    """Per-tensor affine quantizer whose zero point is in the middle, 2**(b - 1)."""

    def fit(self, histogram: Histogram) -> None:
        """Fit the scale: of the percentiles of the spec that of least squared error (1.0 is the largest magnitude)."""
        candidates = []
        for percentile in self.spec.percentiles:
            ends = histogram.quantile(1 - percentile), histogram.quantile(percentile)
            candidates.append(float(symmetric_scale(max(float(end.abs()) for end in ends), self.spec.bits)))
        self.set_parameters(candidates[0], 2 ** (self.spec.bits - 1))
        self.search(candidates[1:], self.value_error(histogram))

    def values_of(self, histogram: Histogram) -> Tensor:
        return histogram.centres()[0]
