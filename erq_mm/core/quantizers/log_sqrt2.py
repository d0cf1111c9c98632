"""log-sqrt2 grid for post-softmax values (RepQ-ViT): q = round(-2 log2(x / s)), x_q = s 2**(-q / 2)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..histogram import Histogram
from ..scale_search import search_log_scale
from .base import Quantizer

SMALLEST_EXPONENT = -40.0  # values below 2**-40 are zero to every bit-width that is allowed


class LogSqrt2Quantizer(Quantizer):
    """Codes 0..2**b - 1 stand for s 2**(-q/2); smaller values become exactly zero, larger ones become s."""

    ignores_zeros = True  # masked attention

    def bounds(self) -> tuple[float, float]:
        return 0.0, 2.0**self._log2_scale

    def refresh(self) -> None:
        self._log2_scale = math.log2(float(self.scale)) if self.scale > 0 else 0.0
        # halfway, in the exponent, between the smallest value of the grid and the next one below it
        self._smallest = 2.0 ** (self._log2_scale - (self.spec.max_code + 0.5) / 2)

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Collect exponents, without the zeros (masked attention): a zero is exact whatever the scale is."""
        exponents = torch.log2(x.reshape(-1))
        histogram.update(exponents[exponents > SMALLEST_EXPONENT].reshape(1, -1))

    def fit(self, histogram: Histogram) -> None:
        self.set_parameters(search_log_scale(histogram, self.spec))

    def fake_quantize(self, x: Tensor) -> Tensor:
        half_steps = torch.log2(x).sub_(self._log2_scale).mul_(2).round_().clamp_(max=0)  # minus the code
        grid_values = half_steps.mul_(0.5).add_(self._log2_scale).exp2_()
        return F.threshold_(grid_values, self._smallest, 0.0)
