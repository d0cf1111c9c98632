"""Scales of least weighted output error: the metric and the alternating search of PTQ4ViT (ECCV 2022).

The error of an output O is sum (g (O_hat - O))^2 with g = dL / dO: the Hessian of the loss with respect to the output,
approximated by the diagonal of the Fisher matrix. `importance` below is g^2, and None means that all are equal.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .quantizers import LineSearchedQuantizer, Quantizer
from .weight_grid import WeightGrid


def importance_of(gradients: Tensor | None) -> Tensor | None:
    """Return squared gradients, the largest one scaled to 1; None without gradients, or if all of them are zero."""
    if gradients is None or not gradients.numel():
        return None
    largest = gradients.abs().max()
    return (gradients / largest).square_() if largest > 0 else None


def weighted_error(change: Tensor, importance: Tensor | None) -> Tensor:
    """Return sum importance * change^2, a float64 scalar; overwrites `change`."""
    squares = change.square_()
    return (squares if importance is None else squares.mul_(importance)).sum(dtype=torch.float64)


def search_weight_scales(
    weight: Tensor,
    grid: WeightGrid,
    group: Tensor,
    candidates: Sequence[Tensor],
    x_q: Tensor,
    target: Tensor,
    importance: Tensor | None,
) -> WeightGrid:
    """Return the grid with the scales of least weighted error of x_q W_q^T; the present ones win a tie.

    Rows of one group share a scale, and groups do not influence each other: each takes its own best. A group whose
    outputs all have importance zero is searched for the plain squared error.

    Args:
        weight: (out, in). grid: the present one.
        group: (out,), numbers from 0.
        candidates: scales, (out, 1) each, equal within groups.
        x_q: (rows, in). target: (rows, out). importance: (rows, out) or None.
    """
    if importance is not None:
        reached = _group_sums(importance.sum(0), group)[group] > 0
        importance = torch.where(reached, importance, 1.0)
    scale, least = grid.scale, _group_errors(weight, grid, group, x_q, target, importance)
    for candidate in candidates:
        errors = _group_errors(weight, replace(grid, scale=candidate), group, x_q, target, importance)
        better = errors < least
        least = torch.where(better, errors, least)
        scale = torch.where(better[group][:, None], candidate, scale)
    return replace(grid, scale=scale)


def _group_errors(
    weight: Tensor, grid: WeightGrid, group: Tensor, x_q: Tensor, target: Tensor, importance: Tensor | None
) -> Tensor:
    squares = (x_q @ grid.decode(grid.encode(weight)).T).sub_(target).square_()
    return _group_sums((squares if importance is None else squares.mul_(importance)).sum(0), group)


def _group_sums(values: Tensor, group: Tensor) -> Tensor:
    return values.new_zeros(len(values), dtype=torch.float64).index_add_(0, group, values.double())


def search_layer(
    weight: Tensor,
    grid: WeightGrid,
    group: Tensor,
    quantizer: Quantizer,
    x: Tensor,
    importance: Tensor | None,
    factors: Sequence[float],
    rounds: int,
) -> WeightGrid:
    """Search the scales of a layer's weight given its quantized input, then the input's given the weight, and again.

    Never ends worse than it began. Inputs on another grid than a `LineSearchedQuantizer`'s stay as they are.

    Args:
        weight: (out, in).
        grid, quantizer: fitted; their scales times `factors` are the candidates of all rounds. Changes the quantizer.
        group: see `search_weight_scales`.
        x: float inputs, (rows, in).
        rounds: the most; a round that changes nothing is the last.

    Returns:
        The new grid of the weight.
    """
    target = x @ weight.T
    weight_candidates = [grid.scale * factor for factor in factors]
    is_searched = isinstance(quantizer, LineSearchedQuantizer)
    input_candidates = quantizer.candidates(factors) if is_searched else []
    for _ in range(rounds):
        x_q, before = quantizer.fake_quantize(x), grid.scale
        grid = search_weight_scales(weight, grid, group, weight_candidates, x_q, target, importance)
        if not is_searched:
            break
        parameter = quantizer.parameter
        _search_input(quantizer, input_candidates, x, grid.decode(grid.encode(weight)), target, importance)
        if quantizer.parameter == parameter and torch.equal(grid.scale, before):
            break
    return grid


def _search_input(
    quantizer: LineSearchedQuantizer,
    candidates: Sequence[float],
    x: Tensor,
    weight_q: Tensor,
    target: Tensor,
    importance: Tensor | None,
) -> None:
    def error() -> Tensor:
        return weighted_error((quantizer.fake_quantize(x) @ weight_q.T).sub_(target), importance)

    quantizer.search(candidates, error)


def search_operand(
    quantizer: LineSearchedQuantizer,
    operand: int,
    inputs: tuple[Tensor, Tensor],
    importance: Tensor | None,
    factors: Sequence[float],
) -> None:
    """Search the parameter of one operand of a product of activations while the other one is float, as published.

    Args:
        operand: 0 or 1.
        inputs: float operands, (pairs, n, k) and (pairs, k, m).
        importance: (pairs, n, m) or None.
    """
    x, other = inputs[operand], inputs[1 - operand]

    def error() -> Tensor:
        change = quantizer.fake_quantize(x).sub_(x)
        return weighted_error(change @ other if operand == 0 else other @ change, importance)

    quantizer.search(quantizer.candidates(factors), error)
