"""Logarithmic grids whose base is chosen, too (AdaLog, ECCV 2024): log2 of the base is q / 37 with an integer q."""

import math

import torch
from torch import Tensor

from ..grid_search import Lattice
from ..histogram import Histogram
from ..spec import QuantSpec
from .logarithmic import SMALLEST_EXPONENT, observe_exponents, round_to_powers_, smallest_power
from .searched import SearchedQuantizer

RESOLUTION = 37  # r, so that bases between 2**(1/37) and 2**(137/37) can be told apart by integers
RELEASED_BASES = range(10, 138)
BASES = range(2, 138)  # finer ones, too: with 10/37 octaves between codes, errors of 9 % remain at any bit-width
NUM_SCALES = 64
LOWEST_QUANTILE = 0.9
VARIANTS = ('', 'released')
GELU_MINIMUM = 0.16997124254703522  # minus the least value of GELU


class AdaptiveLogQuantizer(SearchedQuantizer):
    """Post-softmax: k = round(-log2(x / s) r / q), x_q = s 2**(-k q / r); k beyond 2**b - 1 is exactly zero.

    Powers are exact; the released code reads them from a table of 4n - 2 steps, n = 2**(b - 1). One base and scale for
    all heads, where the publication has one per head.

    The search is over bases q / r and over scales between the 90 % quantile and the maximum, evenly spaced in the
    exponent. The variant `released` of the spec tries q from 10 to 137, the default q from 2, which matters from 6 bits
    on.

    Attributes:
        base: q, a scalar buffer.
    """

    ignores_zeros = True
    shape_name = 'base'
    search_steps = 4
    base: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        if spec.variant not in VARIANTS:
            raise ValueError(f'variant of grid {spec.grid!r} must be one of {VARIANTS}, got {spec.variant!r}')
        self.register_number('base')

    def bounds(self) -> tuple[float, float]:
        return -self.offset, 2.0**self._log2_scale - self.offset

    def derive(self) -> None:
        self._log2_scale = math.log2(self.numbers['scale']) if self.is_fitted else 0.0
        self._octaves = max(self.numbers['base'], 1.0) / RESOLUTION
        self._smallest = smallest_power(self._log2_scale, self._octaves, self.spec.max_code)

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Collect exponents, without the zeros (masked attention)."""
        observe_exponents(x, histogram)

    def lattice(self, histogram: Histogram) -> Lattice:
        bases = RELEASED_BASES if self.spec.variant == 'released' else BASES
        if histogram.is_empty:  # every value was zero: any grid is exact
            return Lattice((1.0,), (float(bases[0]),))
        high, low = float(histogram.quantile(1)), float(histogram.quantile(LOWEST_QUANTILE))
        exponents = torch.linspace(high, low, NUM_SCALES, dtype=torch.float64) if low < high else torch.tensor([high])
        return Lattice(tuple(exponents.exp2().tolist()), tuple(float(q) for q in bases))

    def values_of(self, histogram: Histogram) -> Tensor:
        return histogram.centres()[0].exp2_().sub_(self.offset)

    def fake_quantize(self, x: Tensor) -> Tensor:
        return round_to_powers_(torch.log2(x), self._log2_scale, self._octaves, self._smallest)


class AdaptiveLogGeluQuantizer(AdaptiveLogQuantizer):
    """Post-GELU: the same grid for x + 0.16997, which is not negative. Zero is not on the grid, but -0.16997 is."""

    ignores_zeros = False
    offset = GELU_MINIMUM

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Collect exponents of the shifted values; those at the minimum of GELU count as 2**-40."""
        shifted = (x.reshape(1, -1) + self.offset).clamp_(min=2.0**SMALLEST_EXPONENT)
        histogram.update(shifted.log2_())

    def fake_quantize(self, x: Tensor) -> Tensor:
        exponents = (x + self.offset).clamp_(min=2.0**SMALLEST_EXPONENT).log2_()
        return round_to_powers_(exponents, self._log2_scale, self._octaves, self._smallest).sub_(self.offset)
