"""Power-of-two factor for LayerNorm outputs (FQ-ViT, IJCAI 2022): a common scale, times 2**alpha of every channel."""

import torch
from torch import Tensor

from ..histogram import Histogram
from ..scale_search import affine_parameters
from ..spec import QuantSpec
from .base import Quantizer

LARGEST_EXPONENT = 3  # K


class PowerOfTwoFactorQuantizer(Quantizer):
    """x_q = 2**alpha_c s (clamp(round(x / (2**alpha_c s)) + z, 0, 2**b - 1) - z), alpha_c in 0..3; zero is exact.

    The range of alpha_c = 3 is that of all values together. Channels are the last dimension.

    Attributes:
        exponent: alpha, a buffer (channels,).
    """

    exponent: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer('exponent', torch.zeros(channels))

    def derive(self) -> None:
        self._zero_point = self.numbers['zero_point']

    def bounds(self) -> tuple[Tensor, Tensor]:
        steps = self._steps()
        return -self._zero_point * steps, (self.spec.max_code - self._zero_point) * steps

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        histogram.update(x.reshape(-1, self.channels).T)

    def fit(self, histogram: Histogram) -> None:
        """Fit the base scale to all channels (histograms) together, then every channel's exponent by squared error.

        Of the percentiles of the spec the largest counts: published is the plain minimum and maximum.
        """
        percentile = max(self.spec.percentiles)
        low = histogram.quantile(1 - percentile).min().clamp(max=0)
        high = histogram.quantile(percentile).max().clamp(min=0)
        widest, zero_point = affine_parameters(low, high, self.spec.max_code)
        self.set_parameters(widest / 2**LARGEST_EXPONENT, zero_point)
        self.exponent.copy_(self._errors(histogram).argmin(0))

    def _errors(self, histogram: Histogram) -> Tensor:
        """Return the squared error of every exponent, (exponents, channels)."""
        centres, errors = histogram.centres(), []
        for exponent in range(LARGEST_EXPONENT + 1):
            step = self.numbers['scale'] * 2**exponent
            codes = (centres / step).round_().clamp_(-self._zero_point, self.spec.max_code - self._zero_point)
            errors.append((codes.mul_(step).sub_(centres).square_() * histogram.counts).sum(1))
        return torch.stack(errors)

    def _steps(self) -> Tensor:
        return self.scale * self.exponent.exp2()

    def fake_quantize(self, x: Tensor) -> Tensor:
        steps = self._steps().to(x.dtype)
        codes = (x * steps.reciprocal()).round_()
        return codes.clamp_(-self._zero_point, self.spec.max_code - self._zero_point).mul_(steps)
