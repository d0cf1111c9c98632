"""A short fine-tune of a block whose layers are fitted: scales, LayerNorms and biases move, the codes stay."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.quantizers.learning import Learner, synchronize
from ...core.random_source import RandomSource
from ...core.weight_grid import QuantizedWeight
from ...nn.layers import QuantLayer
from ..reconstruction.capture import first_tensor
from ..state import SiteState, differentiable
from ..training import learned, parametrized
from .damping import held_back
from .rows import token_weights

RATE = 5e-3  # of Adam, as a share of the mean size of what is trained, falling to zero
SMALL = 1e-3  # what counts as the size of something smaller, such as biases that are zero


@dataclass(frozen=True)
class BlockCall:
    """One call of a block.

    Attributes:
        args, keywords: what the quantized model calls it with.
        output: what the float model's block returns there, (..., channels), or that and more.
        is_weighted: whether the error of a token is divided by its variance, as the next LayerNorm does.
    """

    args: tuple[Any, ...]
    keywords: Mapping[str, Any]
    output: Any
    is_weighted: bool

    def error(self, block: nn.Module) -> Tensor:
        """Return the mean over tokens of the squared error of the block's output, a scalar."""
        wanted = first_tensor(self.output)
        errors = (first_tensor(block(*self.args, **self.keywords)) - wanted).square().sum(-1)
        return (errors * token_weights(wanted) if self.is_weighted else errors).mean()


@dataclass(frozen=True)
class Tuned:
    """The error of a block on the calls that decide, before and after, and whether the tuned values were kept."""

    before: float
    after: float
    kept: bool


def tune_block(
    block: nn.Module, states: Sequence[SiteState], calls: Sequence[BlockCall], steps: int, seed: int
) -> Tuned:
    """Train scales of weights and inputs, LayerNorms and biases of a block; keep them if its error falls.

    From four calls on, the last quarter of them is held back and decides; fewer decide themselves.

    Args:
        states: sites of the block, quantized and switched on.
        calls: one for every group of images, at least one.
        steps: of Adam, each on one call.
        seed: of their choice.
    """
    held = held_back(torch.arange(len(calls)))
    train = [call for index, call in enumerate(calls) if held is None or not held[index]]
    test = [call for index, call in enumerate(calls) if held is None or held[index]]
    with differentiable(block), _trained(block, states) as trained:
        before = _mean_error(block, test)
        _optimize(block, train, trained, steps, RandomSource(seed, first_tensor(calls[0].output).device))
        after = _mean_error(block, test)
        kept = math.isfinite(after) and after < before
        if not kept:
            trained.restore()
    return Tuned(before, after if kept else before, kept)


def _optimize(
    block: nn.Module, calls: Sequence[BlockCall], trained: '_Trained', steps: int, source: RandomSource
) -> None:
    optimizer = torch.optim.Adam([{'params': [p], 'lr': _rate(p)} for p in trained.parameters])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = calls[source.position(len(calls))].error(block)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        synchronize(trained.learners)


def _rate(parameter: Tensor) -> float:
    return RATE * max(float(parameter.detach().abs().mean()), SMALL)


@torch.no_grad()
def _mean_error(block: nn.Module, calls: Sequence[BlockCall]) -> float:
    return sum(float(call.error(block)) for call in calls) / len(calls)


class RowFactors(nn.Module):
    """A parametrization: every row of a weight times a factor of its own, which a row's scale takes in."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.factors = nn.Parameter(weight.new_ones(len(weight)))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factors.view(-1, *(1 for _ in weight.shape[1:]))


@dataclass
class _Trained:
    """What is trained in a block.

    Attributes:
        parameters: all of it.
        learners: of the input quantizers.
    """

    parameters: list[Tensor]
    learners: list[Learner]

    def __post_init__(self) -> None:
        self._initial = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back to where it began."""
        for parameter, value in zip(self.parameters, self._initial, strict=True):
            parameter.copy_(value)
        synchronize(self.learners)


@contextmanager
def _trained(block: nn.Module, states: Sequence[SiteState]) -> Iterator[_Trained]:
    """Put what is trained in the place of what is fixed; in the end it is what the block has."""
    layers = [state.layer for state in states if state.has_weight and state.layer.weight_group is None]
    norms = [module for module in block.modules() if isinstance(module, nn.LayerNorm)]
    with ExitStack() as stack:
        factors = [stack.enter_context(_row_factors(layer)) for layer in layers]
        learners = [
            stack.enter_context(learned(quantizer, learn_scale=True))
            for state in states
            for quantizer in state.quantizers()
            if quantizer.is_fitted and quantizer.is_active
        ]
        affine = [
            p for module in [*layers, *norms] for p in (module.bias, module.weight) if isinstance(p, nn.Parameter)
        ]
        scales = [learner.scale for learner in learners if learner.scale.requires_grad]
        parameters = [*factors, *affine, *scales]
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield _Trained(parameters, learners)


@contextmanager
def _row_factors(layer: QuantLayer) -> Iterator[nn.Parameter]:
    grid = replace(layer.weight_grid, scale=layer.weight_scale.clone(), zero_point=layer.weight_zero_point.clone())
    codes = grid.encode(layer.weight_matrix())
    rows = RowFactors(layer.weight)
    try:
        with parametrized(layer, rows):
            yield rows.factors
    finally:
        grid = replace(grid, scale=grid.scale * rows.factors.detach()[:, None].clamp(min=SMALL))
        layer.install_(QuantizedWeight(codes, grid, None))
