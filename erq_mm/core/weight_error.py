"""Wqer: quantize a weight half by half, correcting the rest after each half (ERQ, Algorithm 1, Eq. 9 to 17)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .quantizers.uniform import decode, encode
from .ridge import RidgeSystem
from .rounding import RoundingOptions, refine_rounding

PROXIES = ('paper', 'compensated')


@dataclass(frozen=True)
class QuantizedWeight:
    """Codes on the affine grid, and the bias the corrections arrived at.

    Attributes:
        codes: 0..max_code, (out, in), float.
        scale, zero_point: (out, 1).
        bias: (out,), or None.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    @property
    def weight(self) -> Tensor:
        """The fake-quantized weight, (out, in)."""
        return decode(self.codes, self.scale, self.zero_point)


def round_to_nearest(
    weight: Tensor, bias: Tensor | None, scale: Tensor, zero_point: Tensor, max_code: int
) -> QuantizedWeight:
    """Return the plainly rounded weight."""
    return QuantizedWeight(encode(weight, scale, zero_point, max_code), scale, zero_point, bias)


def halving(size: int) -> list[tuple[int, int]]:
    """Return the column ranges quantized in turn: the first half of what remains, until nothing does."""
    ranges, start = [], 0
    while start < size:
        stop = start + max(1, (size - start) // 2)
        ranges.append((start, stop))
        start = stop
    return ranges


def reduce_weight_error(
    quantized: QuantizedWeight,
    weight: Tensor,
    system: RidgeSystem,
    count: int,
    max_code: int,
    *,
    rounding: RoundingOptions | None,
    ridge: bool = True,
    proxy: str = 'paper',
) -> QuantizedWeight:
    """Return the weight quantized with rounding refinement and ridge corrections, on fixed scales.

    Args:
        quantized: gives scale, zero point and the bias to start from.
        weight: the float weight, (out, in), with the correction for the activations already in it.
        system: the damped Gram matrix of [x_q, 1].
        count: rows behind the system, to turn sums into means.
        max_code: codes run from 0 to this.
        rounding: refinement options, or None to round to nearest.
        ridge: whether the columns not yet quantized are corrected for the error of each half (Eq. 17).
        proxy: the objective of the refinement. `paper` is Eq. 12; `compensated` subtracts what the following ridge step
            will remove (the Schur complement of the remaining columns), hence is exact for the final error.
    """
    if proxy not in PROXIES:
        raise ValueError(f'proxy must be one of {PROXIES}, got {proxy!r}')
    scale, zero_point = quantized.scale, quantized.zero_point
    bias_column = weight.new_zeros(len(weight), 1) if quantized.bias is None else quantized.bias[:, None]
    remaining = torch.cat([weight, bias_column], dim=1)
    codes = torch.empty_like(weight)
    for start, stop in halving(weight.shape[1]):
        block = remaining[:, start:stop]
        chosen = encode(block, scale, zero_point, max_code)
        if rounding is not None:
            error = (decode(chosen, scale, zero_point) - block) / scale
            matrix = system.proxy(start, stop, compensated=proxy == 'compensated' and ridge) / count
            chosen = refine_rounding(chosen, error, matrix, max_code, rounding)
        codes[:, start:stop] = chosen
        if ridge:
            error = decode(chosen, scale, zero_point) - block
            remaining[:, stop:] += system.propagate(error, start, stop)
    bias = None if quantized.bias is None else remaining[:, -1].clone()
    return QuantizedWeight(codes, scale, zero_point, bias)
