"""Tangent grid for post-softmax values: levels dense at one or both ends of [0, s] (TanQ of DopQ-ViT).

A reconstruction: the published formula was not available. The family has the two properties that the abstracts name,
levels crowded near 1, and in the variant `both` near 0 as well.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..grid_search import Lattice
from ..histogram import Histogram
from ..spec import QuantSpec
from .logarithmic import SMALLEST_EXPONENT
from .searched import SearchedQuantizer

CENTRES = {'both': 0.5, 'ones': 0.0}
NUM_STEEPNESSES = 32
LEAST_STEEP, STEEPEST = 0.1, 0.98 * math.pi / 2  # the latter for c = 0; the tangent must stay finite on [0, 1]


class TanQuantizer(SearchedQuantizer):
    """q = round((2**b - 1) f(x / s)), x_q = s f^-1(q / (2**b - 1)).

    f(u) = (tan(a (u - c)) + tan(a c)) / (tan(a (1 - c)) + tan(a c)) for u clipped to [0, 1]. The variant of the spec
    gives the centre: `both` (or empty) is c = 1/2, `ones` is c = 0. Zero is exact. Scales are the percentiles of the
    spec, the steepness a takes 32 values; all combinations are tried.

    Attributes:
        steepness, centre: a and c, scalar buffers.
    """

    ignores_zeros = True
    shape_name = 'steepness'
    search_steps = 1
    steepness: Tensor
    centre: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        if spec.variant and spec.variant not in CENTRES:
            raise ValueError(f'variant of grid {spec.grid!r} must be one of {tuple(CENTRES)}, got {spec.variant!r}')
        self.register_number('steepness')
        self.register_number('centre', CENTRES[spec.variant or 'both'])

    def bounds(self) -> tuple[float, float]:
        return 0.0, self._scale

    def derive(self) -> None:
        if not self.is_fitted:
            return
        steepness, centre, self._scale = (self.numbers[name] for name in ('steepness', 'centre', 'scale'))
        self._slope = steepness / self._scale
        self._low, self._high = -steepness * centre, steepness * (1 - centre)
        self._tan_low = math.tan(self._low)
        self._step = (math.tan(self._high) - self._tan_low) / self.spec.max_code
        # half of the smallest level above zero: what float leaves of zero is below it
        self._half_level = (math.atan(self._step + self._tan_low) - self._low) / self._slope / 2

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Collect the values without zeros and denormals (masked attention), which are exact on every such grid."""
        histogram.update(x[x > 2.0**SMALLEST_EXPONENT].reshape(1, -1))

    def lattice(self, histogram: Histogram) -> Lattice:
        steepest = STEEPEST / max(self.numbers['centre'], 1 - self.numbers['centre'])
        shapes = torch.linspace(LEAST_STEEP, steepest, NUM_STEEPNESSES, dtype=torch.float64).tolist()
        if histogram.is_empty:  # every value was zero: any grid is exact
            return Lattice((1.0,), (shapes[0],))
        percentiles = sorted(self.spec.percentiles, reverse=True)
        return Lattice(tuple(float(histogram.quantile(p)) for p in percentiles), tuple(shapes))

    def values_of(self, histogram: Histogram) -> Tensor:
        return histogram.centres()[0]

    def fake_quantize(self, x: Tensor) -> Tensor:
        angles = x.mul(self._slope).add_(self._low).clamp_(self._low, self._high)
        codes = angles.tan_().sub_(self._tan_low).mul_(1 / self._step).round_()
        values = codes.mul_(self._step).add_(self._tan_low).atan_().sub_(self._low).mul_(1 / self._slope)
        return F.threshold_(values, self._half_level, 0.0)
