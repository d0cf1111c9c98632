"""Levels of a grid that need not be evenly spaced: some of the 256 of a finer uniform grid, named by a table.

Values of activations are many around their mean and few far from it; evenly spaced levels spend as many on the few. The
levels of least squared error are those of Lloyd and Max (IEEE Trans. Inf. Theory 28, 1982); that they lie on a uniform
grid of 8 bits costs next to nothing and leaves the product one of integers: codes are rounded to 8 bits, and a table of
256 bytes takes them to the nearest level. What is stored or sent has the spec's bits, the product is one of 8 bits.
"""

import torch
from torch import Tensor

from ..histogram import Histogram
from ..scale_search import search_uniform_range
from ..spec import QuantSpec
from .channel_uniform import ChannelUniformQuantizer
from .uniform import UniformQuantizer

FINE_CODES = 255  # the largest code of the grid on which the levels lie
CHUNK = 2**20  # values of rows that are quantized at once: codes and places on the way weigh twice as much as these


def even_table(bits: int) -> Tensor:
    """Return 2**bits evenly spaced codes from 0 to 255, uint8."""
    return torch.linspace(0, FINE_CODES, 2**bits, dtype=torch.float64).round().to(torch.uint8)


def nearest_code(table: Tensor) -> Tensor:
    """Return the nearest entry of an ascending table, float64, for every code from 0 to 255; of two the smaller."""
    codes = torch.arange(FINE_CODES + 1, dtype=torch.float64, device=table.device)
    table = table.double()
    return table[torch.bucketize(codes, (table[1:] + table[:-1]) / 2)]


class LevelsQuantizer(UniformQuantizer):
    """x_q = (nearest(table, clamp(round(x / s) + z, 0, 255)) - z) s; scale and zero point are those of the finer grid.

    Attributes:
        table: buffer (2**b,), uint8, ascending: the code on the finer grid of every code.
    """

    table: Tensor
    _values: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer('table', even_table(spec.bits))
        self.register_buffer('_values', torch.full((FINE_CODES + 2,), torch.nan), persistent=False)

    @property
    def max_code(self) -> int:
        return FINE_CODES

    def set_table(self, table: Tensor) -> None:
        """Take the codes of the levels, ascending, (2**b,)."""
        self.table.copy_(table)
        self.derive()

    def lookup(self) -> Tensor:
        """Return what kernels look up: the nearest level's code for every code of the finer grid, uint8 (256,)."""
        return nearest_code(self.table.cpu()).to(torch.uint8)

    def set_even(self, scale: Tensor | float, zero_point: Tensor | float) -> None:
        """Take the evenly spaced levels of a uniform grid of the spec's bits that contains zero."""
        self.set_table(even_table(self.spec.bits))
        step = FINE_CODES / self.spec.max_code
        self.set_parameters(scale / step, round(float(zero_point) * step))

    def derive(self) -> None:
        super().derive()
        self._values[:-1] = (nearest_code(self.table) - self._zero_point) * self._scale  # the last one is that of NaN

    def limits(self) -> tuple[float, float]:
        first, second, *_, before, last = self.table.tolist()
        low, high = first - (second - first) / 2, last + (last - before) / 2
        return (low - self._zero_point) * self._scale, (high - self._zero_point) * self._scale

    def fit(self, histogram: Histogram) -> None:
        """Fit evenly spaced levels to all values, zero among them; steps that have rows choose others."""
        scale, zero_point = search_uniform_range(histogram, self.spec, contains_zero=True)
        self.set_even(scale, zero_point)

    def fake_quantize(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.numel() <= CHUNK:
            return self._on_levels(x)
        found = torch.empty_like(x)
        count = max(1, CHUNK // x.shape[1])
        for part, rows in zip(found.split(count), x.split(count), strict=True):
            part.copy_(self._on_levels(rows))
        return found

    def _on_levels(self, x: Tensor) -> Tensor:
        codes = self.steps(x).add_(self._zero_point).nan_to_num_(nan=FINE_CODES + 1)
        places = codes.to(torch.int32)  # a lookup by int64 takes twice as long
        return self._values.index_select(0, places.reshape(-1)).view(x.shape).to(x.dtype)


class ChannelLevelsQuantizer(LevelsQuantizer, ChannelUniformQuantizer):
    """The same levels for y = x / ratio - shift, see `ChannelUniformQuantizer`."""
