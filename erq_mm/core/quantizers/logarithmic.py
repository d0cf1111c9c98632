"""Grids of powers, s 2**(-octaves k) for k = 0..2**b - 1, and zero: what the logarithmic quantizers share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..histogram import Histogram

SMALLEST_EXPONENT = -40.0  # values below 2**-40 are zero to every bit-width that is allowed
SMALLEST_NORMAL = 2.0**-126


def smallest_power(log2_scale: float, octaves: float, max_code: int) -> float:
    """Return where values become zero: halfway, in the exponent, between the last code and the one after it.

    Denormals, which masked attention consists of, are always zero.
    """
    return max(2.0 ** (log2_scale - (max_code + 0.5) * octaves), SMALLEST_NORMAL)


def round_to_powers_(exponents: Tensor, log2_scale: float, octaves: float, smallest: float) -> Tensor:
    """Return the values on the grid nearest, in the exponent, to 2**exponents; overwrites `exponents`."""
    codes = exponents.sub_(log2_scale).mul_(1 / octaves).round_().clamp_(max=0)  # minus the codes
    return F.threshold_(codes.mul_(octaves).add_(log2_scale).exp2_(), smallest, 0.0)


def observe_exponents(x: Tensor, histogram: Histogram) -> None:
    """Collect log2 of the values, without zeros and denormals (masked attention): they are exact on every such grid."""
    exponents = torch.log2(x.reshape(-1))
    if len(exponents) and not bool(exponents.amin() > SMALLEST_EXPONENT):  # picking values costs more than looking
        exponents = exponents[exponents > SMALLEST_EXPONENT]
    histogram.update(exponents.reshape(1, -1))
