"""Deal the places of a layer's hidden units anew: the loudest get two, those that the others make up for get none.

Nothing about the model's shape or its kernels changes. The copy of a unit has a row of its own in the layer, rounded so
that the two together come as near as they can, and levels of its own behind it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core.code_search import search_codes
from ...core.quantizers.levels import ChannelLevelsQuantizer
from ...core.row_problem import RowProblem
from ...core.unit_copies import choose_copies
from ...core.weight_grid import QuantizedWeight
from ...wording import first_of
from ..state import SiteState
from .channel_grids import ChannelGrid, search_channel_grid

STRETCHES = (0.8, 0.85, 0.9, 0.93, 0.96, 1.04, 1.07, 1.1, 1.15, 1.2)
MOVES = (-0.75, -0.5, -0.25, 0.25, 0.5, 0.75)  # in mean steps between levels
DAMPING = 0.1  # of the covariance of units, of its mean diagonal, times the square of the units per row
NAMED = 6  # layers in a note

Pairs = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class FittedLayer:
    """A layer that has just been fitted, and what its rows say.

    Attributes:
        x: (rows, in), on its grid. weights: (rows,).
        problem: of the rows.
        share: damping of the metric its codes were chosen in.
        prior, bias: the float weight, (out, in), and bias, (out,), that the problem's residual is of.
        wanted: the weight that its codes stand for.
        quantized: the result.
    """

    x: Tensor
    weights: Tensor
    problem: RowProblem
    share: float
    prior: Tensor
    bias: Tensor
    wanted: Tensor
    quantized: QuantizedWeight


def can_deal(state: SiteState, consumers: Sequence[SiteState]) -> bool:
    """Whether the units of a layer can be dealt: every layer behind has a table and a scale per unit, and a bias."""
    behind = (
        isinstance(other.quantizers()[0], ChannelLevelsQuantizer) and other.layer.bias is not None
        for other in consumers
    )
    return bool(consumers) and state.layer.weight_spec.grid in ('uniform', 'levels') and all(behind)


def deal_units_(state: SiteState, fitted: FittedLayer, consumers: Sequence[SiteState], margin: float) -> Pairs:
    """Change a fitted layer and the float layers behind it, and return the pairs (unit, place of its copy).

    Args:
        consumers: the layers behind, not fitted yet.
        margin: of the ranges of their inputs.
    """
    quantized = fitted.quantized
    units = state.site.units.activation(nn.functional.linear(fitted.x, quantized.weight, quantized.bias))
    if len(units) < 2:
        return []
    shares = fitted.weights / fitted.weights.sum().clamp(min=1e-30)
    mean = shares @ units
    centred = (units - mean) * shares.sqrt()[:, None]
    covariance = (centred.T @ centred).double()
    weight = torch.cat([other.layer.weight_matrix() for other in consumers])
    importance = torch.cat([_importance(other.layer.weight_matrix(), covariance) for other in consumers])
    grid = search_channel_grid(
        units, fitted.weights, importance.to(weight.dtype) @ weight.square(), consumers[0].input_specs[0], margin
    )
    noise = shares @ (grid.rounded(units) - units).square()
    damping = DAMPING * (units.shape[1] / len(units)) ** 2  # few rows show units to be alike that are not
    covariance.diagonal().add_(damping * covariance.diagonal().mean() + 1e-12)
    pairs, changed = choose_copies(covariance, noise, weight, importance)
    if pairs:
        _copy_rows_(state, fitted, pairs)
        _copy_columns_(consumers, changed.split([len(other.layer.weight) for other in consumers]), mean, pairs)
    return pairs


def interleaved(grid: ChannelGrid, x: Tensor, weights: Tensor, pairs: Pairs) -> ChannelGrid:
    """Return the grid with the levels of every copy stretched or moved so that the mean of both has the least error.

    Args:
        grid: with a table.
        x: (rows, units). weights: (rows,).
        pairs: (unit, place of its copy).
    """
    units, places = (torch.tensor(column, device=x.device) for column in zip(*pairs, strict=True))
    first, second = grid.columns(units), grid.columns(places)
    x_first, x_second = x[:, units], x[:, places]
    rest = first.rounded(x_first) - x_first
    begins_at_zero = (x_first.amin(0) == 0) & (x_second.amin(0) == 0)
    best, least = second, None
    for stretch, move in [(1.0, 0.0), *((s, 0.0) for s in STRETCHES), *((1.0, m) for m in MOVES)]:
        tried = second.changed(stretch, torch.where(begins_at_zero, 0.0, move))
        errors = weights.to(x.dtype) @ (tried.rounded(x_second) - x_second + rest).square()
        if least is None:
            least = errors
            continue
        is_better = errors < least
        best, least = tried.where(is_better, best), torch.minimum(errors, least)
    return grid.with_columns(places, best)


def dealing_notes(dealt: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return what a report says of layers whose hidden units have been dealt: how many of how many places."""
    layers = [f'{name} ({count} of {places})' for name, (count, places) in dealt.items()]
    return [f'hidden units with a second place, given up by others: {first_of(layers, NAMED)}'] if layers else []


def _importance(weight: Tensor, covariance: Tensor) -> Tensor:
    """Return what squared errors of a layer's outputs count, (out,): one over their mean variance."""
    weight = weight.double()
    variance = float(((weight @ covariance) * weight).sum()) / max(len(weight), 1)
    return weight.new_full((len(weight),), 1 / max(variance, 1e-30) / max(len(weight), 1))


def _copy_rows_(state: SiteState, fitted: FittedLayer, pairs: Pairs) -> None:
    """Give every copy a row: the one that, rounded, makes up for what rounding has done to the row of its unit."""
    units, places = (list(column) for column in zip(*pairs, strict=True))
    problem, quantized = fitted.problem, fitted.quantized
    target = 2 * fitted.wanted[units] - quantized.weight[units]
    copies = search_codes(target, problem.metric(fitted.share), state.layer.weight_spec, quantized.grid.table)
    owed = problem.mean_residual[units] - (copies.weight - fitted.prior[units]) @ problem.mean
    codes, bias = quantized.codes.clone(), quantized.bias.clone()
    scale, zero_point = quantized.grid.scale.clone(), quantized.grid.zero_point.clone()
    codes[places], bias[places] = copies.codes, fitted.bias[units] + owed
    scale[places], zero_point[places] = copies.grid.scale, copies.grid.zero_point
    grid = replace(quantized.grid, scale=scale, zero_point=zero_point)
    state.layer.install_(QuantizedWeight(codes, grid, bias))


def _copy_columns_(consumers: Sequence[SiteState], weights: Sequence[Tensor], mean: Tensor, pairs: Pairs) -> None:
    """Give the layers behind the weight without the units given up, halved where a unit has two places."""
    units, places = (list(column) for column in zip(*pairs, strict=True))
    for other, weight in zip(consumers, weights, strict=True):
        layer = other.layer
        owed = (layer.weight_matrix().double() - weight) @ mean.double()
        weight = weight.clone()
        weight[:, units] /= 2
        weight[:, places] = weight[:, units]
        layer.change_((weight - layer.weight_matrix()).to(layer.weight.dtype), owed.to(layer.weight.dtype))
