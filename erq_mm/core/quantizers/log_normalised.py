"""Logarithmic grid of a softmax, relative to the largest value of every row and normalised again.

A row is 2**(-o k), k whole, divided by its sum: its largest value is code 0 and needs no scale, and rows sum to one as
those of the softmax do, so that a constant in the other factor of the product passes unchanged.
"""

from torch import Tensor

from ..histogram import Histogram
from .base import Quantizer
from .logarithmic import SMALLEST_NORMAL

OCTAVES = 0.5


class LogNormalisedQuantizer(Quantizer):
    """Codes k = round(log2(max / p) / o); p_q = 2**(-o k) / (sum of the row), zero beyond code 2**b - 1.

    Rows are the last dimension. The scale is o, the octaves between neighbouring codes.
    """

    ignores_zeros = True  # masked attention
    scales_negative_values = False
    learns_scale = False  # the values are not proportional to the octaves

    def bounds(self) -> tuple[float, float]:
        return 0.0, 1.0

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Only look whether all is finite: `fit` needs no values."""
        if x.numel():
            histogram.update(x.amax(-1).reshape(1, -1))

    def fit(self, histogram: Histogram) -> None:
        """Take half an octave, which is chosen by values alone on the log-sqrt2 grid; steps search it by outputs."""
        self.set_parameters(OCTAVES)

    def fake_quantize(self, x: Tensor) -> Tensor:
        octaves = self.numbers['scale']
        largest = x.amax(-1, keepdim=True).clamp_(min=SMALLEST_NORMAL)
        codes = (x / largest).log2_().mul_(-1 / octaves).round_()  # infinite for zeros
        values = codes.mul(-octaves).exp2_().masked_fill_(codes > self.spec.max_code, 0.0)
        return values.div_(values.sum(-1, keepdim=True).clamp_(min=SMALLEST_NORMAL))
