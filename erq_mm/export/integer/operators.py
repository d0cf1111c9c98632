"""oneDNN's int8 products, as shipped in the torch wheel: the only place that names these operators.

They are internal to torch (used by its own compiler), so nothing here is trusted: `deploy_` compares every layer with
its simulation. Inputs are uint8 with one scale and zero point, weights int8 with a scale per row; sums are int32,
outputs float32.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from .codes import InputGrid, IntegerWeight

NAMES = ('qlinear_prepack', 'qlinear_pointwise', 'qconv_prepack', 'qconv_pointwise')
ACTIVATIONS = {'gelu': 'none', 'relu': ''}  # name -> algorithm; the tangent GELU is slower in a kernel than behind it
PAIR_LIMIT = 2**15 - 1  # of the 16-bit sums of two products that CPUs without VNNI instructions make


def why_unavailable() -> str | None:
    """Return the reason why this torch or machine has no int8 products, or None."""
    if not torch.backends.mkldnn.is_available():
        return f'torch {torch.__version__} is built without oneDNN'
    missing = [name for name in NAMES if not hasattr(torch.ops.onednn, name)]
    if missing:
        return f'torch {torch.__version__} lacks the operators {", ".join("onednn::" + name for name in missing)}'
    return None


def pack_linear(weight: IntegerWeight) -> Tensor:
    """Return the weight, (out, in), in the order in which kernels read it."""
    return torch.ops.onednn.qlinear_prepack(weight.codes, None)


def linear(
    codes: Tensor, grid: InputGrid, packed: Tensor, scale: Tensor, zero_points: Tensor, bias: Tensor | None
) -> Tensor:
    """Return scale_x scale_w (codes - zero_point) W^T + b, float32 (rows, out).

    Args:
        codes: uint8, (rows, in), at least one row.
        packed, scale: of the weight.
        zero_points: int8 zeros, (out,).
    """
    return torch.ops.onednn.qlinear_pointwise(
        codes, grid.scale, grid.zero_point, packed, scale, zero_points, bias, 1.0, 0, torch.float32, 'none', [], ''
    )


def activated_linear(
    codes: Tensor,
    grid: InputGrid,
    packed: Tensor,
    scale: Tensor,
    zero_points: Tensor,
    bias: Tensor | None,
    activation: str,
    next_grid: InputGrid,
) -> Tensor:
    """Return the codes of the activated output of `linear`, uint8 (rows, out), without a float tensor in between.

    Args:
        codes, grid, packed, scale, zero_points, bias: as of `linear`.
        activation: of `ACTIVATIONS`.
        next_grid: of the codes returned.
    """
    scale_out, zero_out = next_grid.scale, next_grid.zero_point
    codes = torch.ops.onednn.qlinear_pointwise(
        codes, grid.scale, grid.zero_point, packed, scale, zero_points, bias, scale_out, zero_out, torch.uint8,
        activation, [], ACTIVATIONS[activation],
    )  # fmt: skip
    # the kernel clips at 255, whatever the bits of the grid
    return codes if next_grid.max_code == 255 else codes.clamp_(max=next_grid.max_code)


def pack_conv(weight: IntegerWeight, grid: InputGrid, geometry: Sequence[Sequence[int]]) -> Tensor:
    """Return the weight, (out, in, kh, kw), in the order in which kernels read it.

    Args:
        geometry: stride, padding and dilation, two numbers each.
    """
    stride, padding, dilation = (list(sizes) for sizes in geometry)
    return torch.ops.onednn.qconv_prepack(
        weight.codes, weight.scale, grid.scale, grid.zero_point, stride, padding, dilation, 1, None
    )


def conv(
    codes: Tensor,
    grid: InputGrid,
    packed: Tensor,
    scale: Tensor,
    zero_points: Tensor,
    bias: Tensor | None,
    geometry: Sequence[Sequence[int]],
) -> Tensor:
    """Return the convolution, float32, its memory in channels-last order; pads with the zero point, which is zero.

    Args:
        codes: uint8, (images, in, height, width), at least one image.
    """
    stride, padding, dilation = (list(sizes) for sizes in geometry)
    return torch.ops.onednn.qconv_pointwise(
        codes, grid.scale, grid.zero_point, packed, scale, zero_points, bias, stride, padding, dilation, 1, 1.0, 0,
        torch.float32, 'none', [], '',
    )  # fmt: skip


@cache
def sums_saturate() -> bool:
    """Whether int8 products of this CPU are wrong for large codes.

    CPUs without VNNI instructions add the products of two inputs in 16 bits: 255 * 127 + 255 * 127 does not fit, and is
    clipped in silence. Tried once: the largest inputs times the largest weights.
    """
    weight = IntegerWeight(torch.full((16, 64), 127, dtype=torch.int8), torch.ones(16))
    codes, grid = torch.full((33, 64), 255, dtype=torch.uint8), InputGrid(1.0, 0, 255)
    product = linear(codes, grid, pack_linear(weight), weight.scale, torch.zeros(16, dtype=torch.int8), None)
    return bool((product != 64 * 255 * 127).any())


def largest_pair(codes: Tensor, max_code: int) -> int:
    """Return the largest magnitude that a sum of two products of an input with a weight can have.

    It is reached where both weights have the same sign, as inputs are not negative; kernels may pair any two of a row.

    Args:
        codes: int8, rows first.
        max_code: the largest input.
    """
    rows = codes.flatten(1).int()
    count = min(2, rows.shape[1])
    high = rows.topk(count, 1).values.clamp(min=0).sum(1).max()
    low = rows.topk(count, 1, largest=False).values.clamp(max=0).sum(1).min()
    return max(int(high), -int(low)) * max_code
