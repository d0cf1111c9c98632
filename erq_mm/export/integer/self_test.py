"""Whether a layer that runs as integers computes what its simulation computes, tried when it is deployed."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...nn.layers import QuantConv2d, QuantLayer, QuantLinear
from . import operators
from .modules import IntegerLayer

# Rounding errors of a float32 sum, as a share of the sum of magnitudes; integer sums have none
TOLERANCE = 1e-5
SATURATES = (
    'this CPU has no VNNI instructions: it adds pairs of products in 16 bits, which two large weights exceed. Weights '
    'of 7 bits with deploy=True, or of at most 6, run as integers here'
)
ROWS = (1, 37)  # kernels differ for one row and for several


@torch.no_grad()
def why_different(simulated: QuantLayer, integer: IntegerLayer) -> str | None:
    """Return how an integer layer fails, or None.

    The inputs lie on the layer's own grid: seeded ones, and the largest code everywhere, which overflows first. Every
    output may differ by `TOLERANCE` of the sum of the magnitudes that it adds up.
    """
    pair = operators.largest_pair(integer.codes, integer.grid.max_code)
    if pair > operators.PAIR_LIMIT and operators.sums_saturate():
        return SATURATES
    axis = simulated.channel_axis
    try:
        for steps in _steps(simulated, integer):
            x = integer.grid.inputs(steps.movedim(axis, -1)).movedim(-1, axis)
            y = steps * integer.grid.scale
            expected, bound = simulated.forward(x), _magnitude(simulated, y)  # without the hooks of others
            error = ((integer.forward(x) - expected).abs() / (bound + torch.finfo(torch.float32).tiny)).max()
            if not float(error) <= TOLERANCE:
                return f'differs from its simulation by {float(error):.1e} of the magnitudes added, {TOLERANCE} allowed'
    except Exception as error:  # internal operators: whatever they raise means that they do not work here
        return f'the operator failed ({type(error).__name__}: {error})'
    return None


def _steps(simulated: QuantLayer, integer: IntegerLayer) -> Iterator[Tensor]:
    """Yield inputs, in steps of the layer's grid."""
    generator, grid = torch.Generator().manual_seed(0), integer.grid
    for rows in ROWS:
        shape = _shape(simulated, rows)
        codes = torch.randint(0, grid.max_code + 1, shape, generator=generator).float()
        codes[0] = grid.max_code
        yield codes - grid.zero_point


def _shape(layer: QuantLayer, rows: int) -> tuple[int, ...]:
    """Rows of a linear layer; images of a few output pixels, with all their padding, of a convolution."""
    if isinstance(layer, QuantLinear):
        return rows, layer.in_features
    assert isinstance(layer, QuantConv2d)
    sides = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
    sizes = (dilation * (kernel - 1) + 1 + 3 * stride for kernel, dilation, stride in sides)
    return min(rows, 2), layer.in_channels, *sizes


def _magnitude(layer: QuantLayer, x: Tensor) -> Tensor:
    """Return the sum of the magnitudes that make up each output, x as the layer's own product sees it."""

    bias = None if layer.bias is None else layer.bias.abs()
    if isinstance(layer, QuantLinear):
        return F.linear(x.abs(), layer.weight.abs(), bias)
    assert isinstance(layer, QuantConv2d)
    return F.conv2d(x.abs(), layer.weight.abs(), bias, layer.stride, layer.padding, layer.dilation)
