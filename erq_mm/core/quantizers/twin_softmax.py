"""Twin uniform grid for post-softmax values (PTQ4ViT, ECCV 2022): one bit selects the fine range or the whole one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..histogram import Histogram
from ..spec import QuantSpec
from .line_searched import LineSearchedQuantizer
from .logarithmic import observe_exponents

LARGEST_EXPONENT = 19


class TwinSoftmaxQuantizer(LineSearchedQuantizer):
    """Range R1 = [0, 2**-m] has the scale D_R1 = D_R2 / 2**m, range R2 above it D_R2 = 1 / (n - 1), n = 2**(b - 1).

    x_q = D clamp(round(x / D), 0, n - 1) with the D of the range that x lies in: the exclusive form of the paper. Where
    the split is below D_R2 / 2 that formula sends values just above it to zero; here they become the split itself, the
    largest value of R1, so that the grid is monotone.

    `scale` is the end of R2, 1 as published. Both ranges scale with it, should a reconstruction train it.

    Attributes:
        exponent: m, a scalar buffer, 0..19: the one number to choose.
    """

    ignores_zeros = True
    exponent: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_number('exponent')

    def derive(self) -> None:
        steps = 2 ** (self.spec.bits - 1) - 1
        self._scale = self.numbers['scale']
        self._split = self._scale * 2.0 ** -self.numbers['exponent']
        self._coarse, self._fine = self._scale / steps, self._split / steps

    def bounds(self) -> tuple[float, float]:
        return 0.0, self._scale

    @property
    def parameter(self) -> float:
        return self.numbers['exponent']

    def set_parameter(self, value: float) -> None:
        self.store(exponent=value)

    def candidates(self, factors: Sequence[float]) -> list[float]:
        """Return all exponents: there is no scale to multiply."""
        return [float(exponent) for exponent in range(LARGEST_EXPONENT + 1)]

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        """Collect exponents, without the zeros (masked attention): a fine range needs a fine histogram."""
        observe_exponents(x, histogram)

    def fit(self, histogram: Histogram) -> None:
        """Set the scale to 1 and choose the exponent of least squared error."""
        self.set_parameters(1.0)
        self.set_parameter(0.0)
        self.search(self.candidates(()), self.value_error(histogram))

    def values_of(self, histogram: Histogram) -> Tensor:
        return histogram.centres()[0].exp2_()

    def fake_quantize(self, x: Tensor) -> Tensor:
        fine = (x * (1 / self._fine)).round_().mul_(self._fine).clamp_(0, self._split)
        coarse = (x * (1 / self._coarse)).round_().mul_(self._coarse).clamp_(self._split, self._scale)
        return torch.where(x > self._split, coarse, fine)
