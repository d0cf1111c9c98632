"""What integer kernels need to know of a quantized layer, or the reason why they cannot run it.

Kernels multiply uint8 inputs with one scale and zero point by int8 weights with a scale per row and no zero point. The
codes of an asymmetric weight become that by subtracting the zero point, exactly, if the differences fit.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.quantizers import Quantizer
from ...core.quantizers.channel_uniform import ChannelUniformQuantizer
from ...core.quantizers.levels import LevelsQuantizer
from ...core.quantizers.uniform import UniformQuantizer
from ...core.spec import KERNEL_GRIDS
from ...nn.layers import QuantLayer

LOWEST, HIGHEST = -128, 127
MAX_ZERO_POINT = 255
STEPS_OFF_GRID = 1e-3  # rounding errors of scale * (code - zero point) are far below it


@dataclass(frozen=True)
class IntegerWeight:
    """A weight as W = scale * codes.

    Attributes:
        codes: code - zero point, int8, in the shape of the weight.
        scale: float32, (out,).
    """

    codes: Tensor
    scale: Tensor


@dataclass(frozen=True)
class InputGrid:
    """A uniform per-tensor grid y_q = scale * (code - zero_point) with codes 0..max_code and zero on it.

    Attributes:
        inverse, offset: (channels,), of inputs x that are not y: y / scale = x inverse + offset. None where they are.
        table: (256,), uint8, of a grid whose levels are some of its 256 codes: for every code the nearest of them.
    """

    scale: float
    zero_point: int
    max_code: int
    inverse: Tensor | None = None
    offset: Tensor | None = None
    table: Tensor | None = None

    def steps(self, x: Tensor) -> Tensor:
        """Return y / scale of inputs whose last dimension is channels, by the simulation's own operations."""
        return x * (1 / self.scale) if self.inverse is None else torch.addcmul(self.offset, x, self.inverse)

    def inputs(self, steps: Tensor) -> Tensor:
        """Return the inputs x whose y / scale are `steps`."""
        return steps * self.scale if self.inverse is None else (steps - self.offset) / self.inverse


@dataclass(frozen=True)
class TooWide:
    """Why a weight is refused: its codes minus zero points reach beyond int8."""

    low: int
    high: int

    def __str__(self) -> str:
        return f'codes minus zero points reach from {self.low} to {self.high}, int8 from {LOWEST} to {HIGHEST}'


def integer_weight(layer: QuantLayer) -> IntegerWeight | TooWide | str:
    """Return the weight of a layer in int8, or why it has none."""
    if layer.weight_group is not None:
        return 'two scales per row (dual uniform weights), kernels have one'
    if not layer.has_quantized_weight:
        return 'its weight is float: it was never put on a grid'
    grid, matrix = layer.weight_grid, layer.weight_matrix()
    codes = grid.encode(matrix)
    if not float(((grid.decode(codes) - matrix).abs() / grid.scale).max()) < STEPS_OFF_GRID:
        return 'its weight does not lie on its grid: something changed it after quantization'
    if bool((grid.zero_point != grid.zero_point.round()).any()):
        return 'zero points of its weight are no integers'
    centred = codes - grid.zero_point
    low, high = int(centred.min()), int(centred.max())
    if low < LOWEST or high > HIGHEST:
        return TooWide(low, high)
    return IntegerWeight(centred.to(torch.int8).view_as(layer.weight), grid.scale.detach().flatten().clone())


def input_grid(quantizer: Quantizer) -> InputGrid | str:
    """Return the grid of a layer's input, or why kernels cannot have it."""
    if not isinstance(quantizer, UniformQuantizer) or quantizer.spec.grid not in KERNEL_GRIDS:
        return f'its input has the grid {quantizer.spec.grid!r}, kernels have uniform ones'
    if not quantizer.is_active or not quantizer.is_fitted:
        return 'its input is float: it had no calibration rows'
    if quantizer.learner is not None:
        return 'its input is quantized by a reconstruction that is under way'
    scale, zero_point = quantizer.numbers['scale'], quantizer.numbers['zero_point']
    if zero_point != round(zero_point):
        return f'the zero point of its input, {zero_point:.4g}, is no integer; recipes have integer_zero_point=True'
    if not 0 <= zero_point <= MAX_ZERO_POINT:
        return f'the zero point of its input, {zero_point:.0f}, is not in 0..{MAX_ZERO_POINT}'
    changed = quantizer.to_steps() if isinstance(quantizer, ChannelUniformQuantizer) else (None, None)
    table = quantizer.lookup() if isinstance(quantizer, LevelsQuantizer) else None
    return InputGrid(scale, int(zero_point), quantizer.max_code, *changed, table)
