"""Twin uniform grid for post-GELU values (PTQ4ViT, ECCV 2022): one bit selects the range below or above zero."""

from torch import Tensor

from ..histogram import Histogram
from ..scale_search import symmetric_scale
from .adaptive_log import GELU_MINIMUM
from .line_searched import LineSearchedQuantizer


class TwinGeluQuantizer(LineSearchedQuantizer):
    """x_q = d clamp(round(x / d), -n, 0) below zero and s clamp(round(x / s), 0, n - 1) above, n = 2**(b - 1).

    The scale d = 0.16997 / n makes the range below zero end at the minimum of GELU; only s is chosen, and stored as
    `scale`.
    """

    scales_negative_values = False

    def derive(self) -> None:
        self._scale, self._steps = self.numbers['scale'], 2 ** (self.spec.bits - 1)
        self._negative_scale = GELU_MINIMUM / self._steps

    def bounds(self) -> tuple[float, float]:
        return -GELU_MINIMUM, (self._steps - 1) * self._scale

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        histogram.update(x.reshape(1, -1))

    def fit(self, histogram: Histogram) -> None:
        """Fit the positive scale: of the percentiles of the spec that of least squared error; `d` without positives."""
        ends = [float(histogram.quantile(percentile)) for percentile in self.spec.percentiles]
        candidates = [float(symmetric_scale(end, self.spec.bits)) for end in ends if end > 0]
        self.set_parameters(candidates[0] if candidates else GELU_MINIMUM / 2 ** (self.spec.bits - 1))
        self.search(candidates[1:], self.value_error(histogram))

    def values_of(self, histogram: Histogram) -> Tensor:
        return histogram.centres()[0]

    def fake_quantize(self, x: Tensor) -> Tensor:
        above = (x * (1 / self._scale)).round_().clamp_(0, self._steps - 1).mul_(self._scale)
        below = (x * (1 / self._negative_scale)).round_().clamp_(-self._steps, 0).mul_(self._negative_scale)
        return above.add_(below)  # one of the two is zero
