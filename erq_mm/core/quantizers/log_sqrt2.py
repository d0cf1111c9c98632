"""log-sqrt2 grid for post-softmax values (RepQ-ViT): q = round(-2 log2(x / s)), x_q = s 2**(-q / 2)."""

import math

import torch
from torch import Tensor

from ..histogram import Histogram
from ..scale_search import search_log_scale
from .base import Quantizer
from .logarithmic import observe_exponents, round_to_powers_, smallest_power


class LogSqrt2Quantizer(Quantizer):
    """Codes 0..2**b - 1 stand for s 2**(-q/2); smaller values become exactly zero, larger ones become s."""

    ignores_zeros = True  # masked attention
    octaves = 0.5  # between neighbouring codes

    def bounds(self) -> tuple[float, float]:
        return 0.0, 2.0**self._log2_scale

    def derive(self) -> None:
        self._log2_scale = math.log2(self.numbers['scale']) if self.is_fitted else 0.0
        self._smallest = smallest_power(self._log2_scale, self.octaves, self.spec.max_code)

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Collect exponents, without the zeros (masked attention): a zero is exact whatever the scale is."""
        observe_exponents(x, histogram)

    def fit(self, histogram: Histogram) -> None:
        self.set_parameters(search_log_scale(histogram, self.spec))

    def fake_quantize(self, x: Tensor) -> Tensor:
        return round_to_powers_(torch.log2(x), self._log2_scale, self.octaves, self._smallest)
