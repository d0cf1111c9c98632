"""Wqer: quantize a weight half by half, correcting the rest after each half (ERQ, Algorithm 1, Eq. 9 to 17)."""

import torch
from torch import Tensor

from .ridge import RidgeSystem
from .rounding import RoundingOptions, refine_rounding
from .weight_grid import QuantizedWeight, WeightGrid

PROXIES = ('paper', 'compensated')


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
    *,
    rounding: RoundingOptions | None,
    ridge: bool = True,
    proxy: str = 'paper',
) -> QuantizedWeight:
    """Return the weight quantized with rounding refinement and ridge corrections, on fixed scales.

    Args:
        quantized: gives the grid and the bias to start from.
        weight: the float weight, (out, in), with the correction for the activations already in it.
        system: the damped Gram matrix of [x_q, 1].
        count: rows behind the system, to turn sums into means.
        rounding: refinement options, or None to round to nearest.
        ridge: whether the columns not yet quantized are corrected for the error of each half (Eq. 17).
        proxy: the objective of the refinement. `paper` is Eq. 12; `compensated` subtracts what the following ridge step
            will remove (the Schur complement of the remaining columns), hence is exact for the final error.
    """
    if proxy not in PROXIES:
        raise ValueError(f'proxy must be one of {PROXIES}, got {proxy!r}')
    grid = quantized.grid
    if rounding is not None:
        grid.refuse_table('the refinement of the rounding')
    bias_column = weight.new_zeros(len(weight), 1) if quantized.bias is None else quantized.bias[:, None]
    remaining = torch.cat([weight, bias_column], dim=1)
    codes = torch.empty_like(weight)
    for start, stop in halving(weight.shape[1]):
        block = remaining[:, start:stop]
        chosen = grid.encode(block, start)
        if rounding is not None:
            matrix = system.proxy(start, stop, compensated=proxy == 'compensated' and ridge) / count
            chosen = _refine(chosen, block, grid, start, matrix, rounding)
        codes[:, start:stop] = chosen
        if ridge:
            error = grid.decode(chosen, start) - block
            remaining[:, stop:] += system.propagate(error, start, stop)
    bias = None if quantized.bias is None else remaining[:, -1].clone()
    return QuantizedWeight(codes, grid, bias)


def _refine(
    codes: Tensor, block: Tensor, grid: WeightGrid, start: int, matrix: Tensor, options: RoundingOptions
) -> Tensor:
    """Refine the columns of one group after those of the other: within a group a flip is one scale wide."""
    stop = start + block.shape[1]
    groups = [None] if grid.group is None else [grid.group[start:stop] == g for g in range(grid.scale.shape[1])]
    for index, members in enumerate(groups):
        if members is not None and not bool(members.any()):
            continue
        error = (grid.decode(codes, start) - block) / grid.scale[:, index : index + 1]
        codes = refine_rounding(codes, error, matrix, grid.max_code, options, members)
    return codes
