"""Fold channel-wise ranges of a LayerNorm's output into the LayerNorm and the Linear that follows (RepQ-ViT)."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

STATISTICS = ('mean', 'median')
CONSTANT = 1e-3  # a channel whose values spread over less than this share of their magnitude is constant


@dataclass(frozen=True)
class Reparameterization:
    """The change of variables y' = y / ratio - shift, after which one scale and zero point serve all channels.

    Attributes:
        ratio, shift: (channels,).
        scale, zero_point: of the per-tensor quantizer of y', scalars.
    """

    ratio: Tensor
    shift: Tensor
    scale: Tensor
    zero_point: Tensor

    @property
    def pad_value(self) -> Tensor:
        """What y = 0 becomes: the value that window padding must have after the change (trap of all published code)."""
        return -self.shift

    def apply(self, x: Tensor) -> Tensor:
        """Return y' of y, (..., channels)."""
        return x / self.ratio.to(x.dtype) - self.shift.to(x.dtype)


def constant_channels(low: Tensor, high: Tensor) -> Tensor:
    """Return which channels are constant, bool (channels,), given their smallest and largest values."""
    return high - low <= CONSTANT * torch.maximum(low.abs(), high.abs())


def reparameterize(
    scale: Tensor,
    zero_point: Tensor,
    max_code: int,
    *,
    constant: Tensor | None = None,
    value: Tensor | None = None,
    integer_zero_point: bool = True,
    statistic: str = 'mean',
    table: Tensor | None = None,
) -> Reparameterization:
    """Choose the per-tensor quantizer as the mean or the median of the channel-wise ones.

    The mean is RepQ-ViT's choice (section 3.2), the median DopQ-ViT's optimal scaling factor: of all channel scales the
    one of least mean absolute deviation from the others. Of an even number it is the lower median.

    Constant channels have no scale of their own: they take no part in that, their value goes into the shift, and so
    into the bias behind it, exactly, and zero is what is left of them on the grid.

    Args:
        scale, zero_point: channel-wise, (channels,).
        max_code: codes run from 0 to this.
        constant: which channels are constant, bool (channels,); None means none.
        value: (channels,), of the constant ones.
        integer_zero_point: round the common zero point, so that the grid contains zero and the pad value; False is the
            published behaviour.
        statistic: `mean` or `median`, of the scales and of the zero points.
        table: the codes that are levels, ascending; the common zero point is the nearest of them. None: all are.

    Raises:
        ValueError: unknown statistic.
    """
    if statistic not in STATISTICS:
        raise ValueError(f'statistic must be one of {STATISTICS}, got {statistic!r}')
    scale, zero_point = scale.double(), zero_point.double()
    constant = torch.zeros_like(scale, dtype=torch.bool) if constant is None else constant
    average = torch.mean if statistic == 'mean' else torch.median
    common_scale, common_zero = torch.ones_like(scale[0]), torch.zeros_like(scale[0])
    if not bool(constant.all()):
        common_scale, common_zero = average(scale[~constant]), average(zero_point[~constant])
    if integer_zero_point:
        common_zero = common_zero.round().clamp(0, max_code)
    if table is not None:
        common_zero = table[(table - common_zero).abs().argmin()]
    ratio = scale / common_scale
    # minimum / ratio - common minimum, with minimum = -z s
    shift = common_scale * (common_zero - zero_point)
    if value is not None:
        ratio = torch.where(constant, 1.0, ratio)
        shift = torch.where(constant, value.double(), shift)
    return Reparameterization(ratio, shift, common_scale, common_zero)


@torch.no_grad()
def fold_(
    norm_weight: Tensor, norm_bias: Tensor, linears: Iterable[tuple[Tensor, Tensor]], change: Reparameterization
) -> None:
    """Apply the change to a LayerNorm and the Linears behind it, in place; computed in float64.

    The composition is unchanged for every row that comes out of the LayerNorm, and for padded rows if they are padded
    with `change.pad_value`.

    Args:
        norm_weight, norm_bias: (channels,).
        linears: weight, (out, channels), and bias, (out,), of every layer that sees the LayerNorm's output.
    """
    dtype = norm_weight.dtype
    for weight, bias in linears:
        absorb_(weight, bias, change)
    norm_bias.copy_((norm_bias.double() / change.ratio - change.shift).to(dtype))
    norm_weight.copy_((norm_weight.double() / change.ratio).to(dtype))


@torch.no_grad()
def absorb_(weight: Tensor, bias: Tensor, change: Reparameterization) -> None:
    """Change a Linear or a convolution in place so that it makes of y' what it made of y; computed in float64.

    Args:
        weight: (out, channels), of a convolution (out, channels, height, width); one that pads takes no shift.
        bias: (out,).
    """
    new_weight = weight.double() * change.ratio.view(-1, *(1,) * (weight.dim() - 2))
    per_channel = new_weight.reshape(*weight.shape[:2], -1).sum(-1)
    bias.copy_((bias.double() + per_channel @ change.shift).to(bias.dtype))
    weight.copy_(new_weight.to(weight.dtype))
