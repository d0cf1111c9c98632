"""The grid of an input with a scale of its own for every channel, as a change of variables and one grid behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...core.clipping import affordable_reach, search_clipped_range
from ...core.histogram import Histogram
from ...core.levels import Levels, even_levels, search_levels
from ...core.quantizers.channel_uniform import ChannelUniformQuantizer
from ...core.quantizers.levels import FINE_CODES, LevelsQuantizer, nearest_code
from ...core.quantizers.uniform import UniformQuantizer
from ...core.reparameterization import Reparameterization, absorb_, constant_channels, reparameterize
from ...core.scale_search import search_uniform_range
from ...core.spec import EVEN_GRIDS, QuantSpec
from ...nn.layers import QuantLayer


@dataclass(frozen=True)
class ChannelGrid:
    """What the layers behind an input have to be told.

    Attributes:
        change: the change of variables, with scale and zero point of the grid behind it.
        table: codes of its levels, (2**bits,); None where all of its codes are.
    """

    change: Reparameterization
    table: Tensor | None = None

    def install_(self, quantizer: UniformQuantizer) -> None:
        """Give a quantizer the grid; one that changes the variables itself the change, too."""
        if isinstance(quantizer, LevelsQuantizer):
            quantizer.set_table(self.table)
        if isinstance(quantizer, ChannelUniformQuantizer):
            quantizer.change_(self.change)
        else:
            quantizer.set_parameters(self.change.scale, self.change.zero_point)

    def fold_into_(self, layer: QuantLayer) -> None:
        """Give a layer the grid for its input, and its weight and bias the change of variables."""
        absorb_(layer.weight.data, layer.bias.data, self.change)
        self.install_(layer.input_quantizer)

    def rounded(self, x: Tensor) -> Tensor:
        """Return x, (rows, channels), on the grid, in its own coordinates; a grid without a table is refused."""
        change, values = self.change, nearest_code(self.table).to(x.dtype)
        scale, zero_point = change.scale.to(x.dtype), change.zero_point.to(x.dtype)
        codes = (change.apply(x) / scale + zero_point).round_().clamp_(0, FINE_CODES).to(torch.int32)
        y = (values.index_select(0, codes.reshape(-1)).view(x.shape) - zero_point) * scale
        return (y + change.shift.to(x.dtype)) * change.ratio.to(x.dtype)

    def columns(self, places: Tensor) -> 'ChannelGrid':
        """Return the grid of some of the channels."""
        change = self.change
        return replace(self, change=replace(change, ratio=change.ratio[places], shift=change.shift[places]))

    def with_columns(self, places: Tensor, other: 'ChannelGrid') -> 'ChannelGrid':
        """Return the grid with some channels as in another one of the same table."""
        ratio, shift = self.change.ratio.clone(), self.change.shift.clone()
        ratio[places], shift[places] = other.change.ratio, other.change.shift
        return replace(self, change=replace(self.change, ratio=ratio, shift=shift))

    def where(self, condition: Tensor, other: 'ChannelGrid') -> 'ChannelGrid':
        """Return this grid where the condition holds, channel by channel, and else another one of the same table."""
        change = self.change
        ratio = torch.where(condition, change.ratio, other.change.ratio)
        return replace(
            self, change=replace(change, ratio=ratio, shift=torch.where(condition, change.shift, other.change.shift))
        )

    def changed(self, stretch: float, move: Tensor) -> 'ChannelGrid':
        """Return the grid with all levels stretched about zero, and moved, (channels,), in mean steps between them."""
        change = self.change
        step = change.scale * (self.table[-1] - self.table[0]) / (len(self.table) - 1)
        return replace(self, change=replace(change, ratio=change.ratio * stretch, shift=change.shift + move * step))


def search_input_grid(
    layers: Sequence[QuantLayer], x: Tensor, weights: Tensor, spec: QuantSpec, margin: float, reach: float = 0.0
) -> ChannelGrid:
    """Return the grid for the input that layers share; errors of a channel count as the squares of what they multiply.

    Args:
        layers: of one kind and, convolutions, of one geometry.
        x: (rows, in), rows as `QuantLayer.rows` yields them. weights: (rows,).
        spec, margin, reach: as of `search_channel_grid`.
    """
    layer, squares = layers[0], sum(other.weight_matrix().square().sum(0) for other in layers)
    importance, taps = layer.per_channel(squares).sum(0), layer.per_channel(x)
    taps, weights = taps.flatten(0, 1), weights.repeat(len(taps))
    return search_channel_grid(taps, weights, importance, spec, margin, reach=reach, needs_zero=layer.needs_zero)


def search_channel_grid(
    x: Tensor,
    weights: Tensor,
    importance: Tensor,
    spec: QuantSpec,
    margin: float,
    *,
    reach: float = 0.0,
    needs_zero: bool = False,
) -> ChannelGrid:
    """Return the grid of least weighted squared error on rows.

    Args:
        x: (rows, channels), at least one row. weights: (rows,).
        importance: (channels,), of the errors of a channel; what all channels share, levels and reach, depends on it.
        spec: of the quantizer.
        margin: factor by which ranges are widened.
        reach: of evenly spaced levels, the share of the variance that `affordable_reach` may spend.
        needs_zero: put zero on the grid, and leave it where it is: channels are scaled and not moved.
    """
    ends = x.amin(0).double(), x.amax(0).double()
    if needs_zero:
        ends = ends[0].clamp(max=0), ends[1].clamp(min=0)
    how = {'margin': margin, 'zero': 'common' if needs_zero else 'anywhere'}
    if spec.grid in EVEN_GRIDS:
        return _of_levels(search_levels(x, weights, importance, spec.bits, **how), ends)
    least_reach = affordable_reach(x, weights, importance, spec.bits, reach) if reach else 0.0
    scale, zero_point = search_clipped_range(x, weights, spec.bits, least_reach=least_reach, **how)
    return _grid(scale, zero_point, spec.max_code, ends)


def published_channel_grid(histogram: Histogram, spec: QuantSpec) -> ChannelGrid:
    """Return the grid of the percentiles of the spec, per channel of the histogram; levels are evenly spaced."""
    ends = histogram.minimum.double(), histogram.maximum.double()
    scale, zero_point = search_uniform_range(histogram, spec, contains_zero=False)
    if spec.grid in EVEN_GRIDS:
        return _of_levels(even_levels(scale, zero_point, spec.bits), ends)
    return _grid(scale, zero_point, spec.max_code, ends)


def _of_levels(levels: Levels, ends: tuple[Tensor, Tensor]) -> ChannelGrid:
    return _grid(levels.scale, levels.zero_point, FINE_CODES, ends, levels.table)


def _grid(
    scale: Tensor, zero_point: Tensor, max_code: int, ends: tuple[Tensor, Tensor], table: Tensor | None = None
) -> ChannelGrid:
    constant, value = constant_channels(*ends), sum(ends) / 2
    change = reparameterize(scale, zero_point, max_code, constant=constant, value=value, table=table)
    return ChannelGrid(change, table)
