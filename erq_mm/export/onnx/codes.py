"""The integers behind a quantized layer, or the reason why no integer kernel runs it."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.quantizers import Quantizer
from ...core.quantizers.levels import LevelsQuantizer
from ...core.quantizers.uniform import UniformQuantizer
from ...core.spec import KERNEL_GRIDS
from ...nn.layers import QuantLayer
from ...wording import first_of

INT8 = (-128, 127)
UINT8_CODES = 256
FINE_BITS = 8  # of the grid on which the levels of a table lie
NAMED = 5  # layers in an error


class AsymmetricRows(ValueError):
    """Weights whose `code - zero_point` is no int8; the message names the layers and the way out."""


@dataclass(frozen=True)
class ActivationGrid:
    """x_q = (clamp(round(x / scale) + zero_point, 0, 2**bits - 1) - zero_point) scale, with an integer zero point.

    Attributes:
        table: of a grid whose levels are some of these codes: for every code the nearest of them; else None.
    """

    scale: float
    zero_point: int
    bits: int
    table: tuple[int, ...] | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value of the grid."""
        return -self.zero_point * self.scale, (2**self.bits - 1 - self.zero_point) * self.scale

    def encode(self, values: NDArray) -> NDArray:
        """Return the codes of values, uint8."""
        codes = np.round(values * np.float32(1 / self.scale)) + self.zero_point
        codes = codes.clip(0, 2**self.bits - 1).astype(np.uint8)
        return codes if self.table is None else np.array(self.table, np.uint8)[codes]


@dataclass(frozen=True)
class IntegerWeight:
    """codes * scale, codes int8 with zero point 0.

    Attributes:
        codes: (out, in) or (out, in, kh, kw), int8.
        scale: (out,), float32.
        bias: (out,), float32, or None.
    """

    codes: NDArray
    scale: NDArray
    bias: NDArray | None


def why_no_kernel(layer: QuantLayer) -> str | None:
    """Return the reason why a quantized layer has to run in float, or None."""
    if not layer.has_quantized_weight:
        return 'its weight was not quantized'
    if layer.weight_scale.shape[1] != 1:
        return 'weight grid of two scales per row: no kernel has it'
    return why_no_activation_kernel(layer.input_quantizer)


def why_no_activation_kernel(quantizer: Quantizer) -> str | None:
    """Return the reason why no kernel takes the codes of a quantizer, or None."""
    if not quantizer.is_active:
        return 'its input is not quantized'
    if not isinstance(quantizer, UniformQuantizer) or quantizer.spec.grid not in KERNEL_GRIDS:
        return f'input grid {quantizer.spec.grid!r}: no kernel has it'
    zero_point = quantizer.numbers['zero_point']
    if zero_point != round(zero_point) or not 0 <= zero_point < UINT8_CODES:
        return f'input zero point {zero_point:.4g} is no integer in 0..{UINT8_CODES - 1}'
    return None


def activation_grid(quantizer: Quantizer) -> ActivationGrid:
    """Return the grid of a quantizer that kernels have (`why_no_activation_kernel` is None)."""
    scale, zero_point = quantizer.numbers['scale'], round(quantizer.numbers['zero_point'])
    if isinstance(quantizer, LevelsQuantizer):
        return ActivationGrid(scale, zero_point, FINE_BITS, tuple(quantizer.lookup().tolist()))
    return ActivationGrid(scale, zero_point, quantizer.spec.bits)


def fits_int8(layer: QuantLayer) -> bool:
    """Whether `code - zero_point` of every weight is in -128..127."""
    low, high = _whole_codes(layer).aminmax()
    return INT8[0] <= float(low) and float(high) <= INT8[1]


def integer_weight(layer: QuantLayer) -> IntegerWeight:
    """Return the weight of a layer as integers, exactly.

    Raises:
        ValueError: the weight does not lie on the layer's grid.
    """
    whole = _whole_codes(layer)
    scale = layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
    if not torch.equal(whole * scale, layer.weight.detach()):
        largest = float(((whole * scale - layer.weight).abs() / scale).max())
        raise ValueError(f'the weight is up to {largest:.2g} steps beside its grid; was it changed after calibration?')
    bias = None if layer.bias is None else layer.bias.detach().cpu().numpy().astype(np.float32)
    codes = whole.cpu().numpy().astype(np.int8)
    return IntegerWeight(codes, layer.weight_scale[:, 0].detach().cpu().numpy().astype(np.float32), bias)


def _whole_codes(layer: QuantLayer) -> torch.Tensor:
    """Return `code - zero_point`, in the weight's shape, as floats."""
    scale = layer.weight_scale.view(-1, *[1] * (layer.weight.dim() - 1))
    return (layer.weight.detach() / scale).round()


def refuse_asymmetric_rows(layers: dict[str, QuantLayer]) -> None:
    """Raise AsymmetricRows if there are layers whose weights no int8 holds.

    Args:
        layers: by name; those that run in float for another reason are not looked at.
    """
    names = [name for name, layer in layers.items() if why_no_kernel(layer) is None and not fits_int8(layer)]
    if names:
        raise AsymmetricRows(
            f'{len(names)} layers have 8-bit weights with rows whose code - zero_point is outside -128..127, which no '
            f'int8 kernel takes: {first_of(names, NAMED)}. Quantize again with the recipe option deploy=True '
            '(symmetric rows), or with w_bits of 7 or less, which always fit'
        )
