"""Uniform affine grid: q = clamp(round(x / s) + z, 0, 2**b - 1), x_q = (q - z) s (ERQ, Eq. 1)."""

import torch
from torch import Tensor

from ..histogram import Histogram
from ..scale_search import search_uniform_range
from .base import Quantizer


def encode(x: Tensor, scale: Tensor, zero_point: Tensor, max_code: int) -> Tensor:
    """Return the codes of `x`, float values 0..max_code; `scale` and `zero_point` broadcast against `x`."""
    return (torch.round(x / scale) + zero_point).clamp_(0, max_code)


def decode(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the value of codes on the affine grid."""
    return (codes - zero_point) * scale


class UniformQuantizer(Quantizer):
    """Per-tensor affine quantizer. A non-integer zero point (as published for RepQ) is allowed."""

    @property
    def max_code(self) -> int:
        """The largest code of the grid whose scale and zero point these are."""
        return self.spec.max_code

    def derive(self) -> None:
        self._scale, self._zero_point = self.numbers['scale'], self.numbers['zero_point']

    def bounds(self) -> tuple[float, float]:
        return -self._zero_point * self._scale, (self.max_code - self._zero_point) * self._scale

    def limits(self) -> tuple[float, float]:
        """Return between which `coordinates` values are rounded and not clipped: half a step beyond the bounds."""
        return (-0.5 - self._zero_point) * self._scale, (self.max_code + 0.5 - self._zero_point) * self._scale

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        histogram.update(x.reshape(-1, x.shape[-1]).T if histogram.num_channels > 1 else x.reshape(1, -1))

    def fit(self, histogram: Histogram) -> None:
        """Fit one scale to all values; the range is widened to contain zero, so that zero is on the grid."""
        scale, zero_point = search_uniform_range(histogram, self.spec, contains_zero=True)
        self.set_parameters(scale, zero_point)

    def fake_quantize(self, x: Tensor) -> Tensor:
        return self.steps(x).mul_(self._scale)

    def steps(self, x: Tensor) -> Tensor:
        """Return the codes of `x` less the zero point, a new float tensor."""
        # passes in place: several times faster on a CPU than torch.fake_quantize_per_tensor_affine
        return (x * (1 / self._scale)).round_().clamp_(-self._zero_point, self.max_code - self._zero_point)
