"""Quantized layers with known grids, and what they compute in int64."""

import torch
from torch import Tensor, nn

from erq_mm.core.quantizers.levels import LevelsQuantizer
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest
from erq_mm.nn import QuantConv2d, QuantLinear
from erq_mm.nn.layers import QuantLayer


def quantized(
    layer: nn.Module, w_bits: int = 4, a_bits: int = 8, zero_point: float | None = None, grid: str = 'uniform'
) -> QuantLayer:
    """Return a layer on its weight grid, with an input scale of 0.05."""
    kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d
    new = kind(layer, QuantSpec(w_bits, 'row', grid=grid), QuantSpec(a_bits))
    matrix = new.weight_matrix().clone()
    bias = None if new.bias is None else new.bias.detach()
    new.install_(round_to_nearest(matrix, bias, fit_weight_grid(matrix, new.weight_spec)))
    new.input_quantizer.set_parameters(0.05, 2 ** (a_bits - 1) - 3 if zero_point is None else zero_point)
    new.input_quantizer.is_active = True
    return new.eval()


def exact(layer: QuantLayer, x: Tensor) -> Tensor:
    """Return the layer's output in float64 from int64 sums, with plain loops over the kernel."""
    quantizer = layer.input_quantizer
    scale, zero_point = quantizer.scale, quantizer.zero_point.long()
    if isinstance(quantizer, LevelsQuantizer):  # whose codes have a reference of their own, tests/core/test_levels.py
        codes = torch.round(quantizer.fake_quantize(x).double() / scale.double()).long()
    else:
        codes = (torch.round(x * (1 / scale.item())).long() + zero_point).clamp(0, quantizer.spec.max_code) - zero_point
    weight = torch.round(layer.weight.detach().flatten(1) / layer.weight_scale).long()
    weight = weight.view_as(layer.weight)
    sums = codes @ weight.T if isinstance(layer, QuantLinear) else _convolve(layer, codes, weight)
    rows = layer.weight_scale.double().flatten() * scale.double()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    shape = (-1,) if isinstance(layer, QuantLinear) else (-1, 1, 1)
    return sums.double() * rows.view(shape) + bias.double().view(shape)


def _convolve(layer: QuantConv2d, codes: Tensor, weight: Tensor) -> Tensor:
    """Sum over kernel positions; what lies outside the image is zero."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    images, channels, height, width = codes.shape
    padded = torch.zeros(images, channels, height + 2 * ph, width + 2 * pw, dtype=torch.long)
    padded[:, :, ph : ph + height, pw : pw + width] = codes
    rows = (padded.shape[2] - dh * (kh - 1) - 1) // sh + 1
    columns = (padded.shape[3] - dw * (kw - 1) - 1) // sw + 1
    total = torch.zeros(images, len(weight), rows, columns, dtype=torch.long)
    for i in range(kh):
        for j in range(kw):
            part = padded[
                :, :, i * dh : i * dh + sh * (rows - 1) + 1 : sh, j * dw : j * dw + sw * (columns - 1) + 1 : sw
            ]
            total += (weight[:, :, i, j] @ part.flatten(2)).view_as(total)
    return total
