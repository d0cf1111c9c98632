"""Train the roundings and scales of one unit against an objective; keep them only if the objective falls."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ...core.adaround import ROUNDINGS, regularization_beta
from ...core.quantizers.learning import synchronize
from ...core.random_source import RandomSource
from ...core.weight_grid import QuantizedWeight, fit_weight_grid
from ..training import learned, parametrized
from .options import ReconstructionOptions
from .units import Unit


class Objective(Protocol):
    """What a unit is trained for; the unit's layers use their trained weights whenever it is evaluated."""

    def sample(self, source: RandomSource, iteration: int) -> Tensor:
        """Return the objective on a random part of the calibration data, a scalar with gradients."""

    def total(self) -> Tensor:
        """Return the objective on all of it, a scalar."""


@dataclass
class Outcome:
    """What became of a unit.

    Attributes:
        before, after: objective with nearest rounding and calibrated scales, and at the end, both with hard roundings.
        kept: whether the trained values were kept (else `after` equals `before`).
        weights: layer name -> quantized weight.
        scales: of the unit's quantizers, in order.
    """

    before: float
    after: float
    kept: bool
    weights: dict[str, QuantizedWeight]
    scales: list[float]


class UnitTrainer:
    """The trained quantities of one unit, put into its modules while the `with` block runs.

    Gradients must be enabled and the model's own parameters frozen (`state.differentiable`).
    """

    def __init__(self, unit: Unit, options: ReconstructionOptions, source: RandomSource) -> None:
        self.unit, self.options, self.source = unit, options, source

    def __enter__(self) -> 'UnitTrainer':
        options, kind = self.options, ROUNDINGS[self.options.rounding]
        self.roundings = {}
        with ExitStack() as stack:
            for state in self.unit.layers():
                layer = state.layer
                rounding = kind(layer.weight, fit_weight_grid(layer.weight_matrix(), layer.weight_spec))
                self.roundings[state.name] = rounding.to(layer.weight.device)
                stack.enter_context(parametrized(layer, rounding))
            for quantizer in self.unit.quantizers():
                quantizer.is_active = True
            self.learners = [
                stack.enter_context(learned(quantizer, options.scale_lr > 0, self.source))
                for quantizer in self.unit.quantizers()
            ]
            self._installed = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._installed.close()

    def train(self, objective: Objective, advance: Callable[[], Any]) -> Outcome:
        """Minimize the objective; `advance` is called after every iteration."""
        initial = self._snapshot()
        before = self._evaluate(objective)
        self._optimize(objective, advance)
        after = self._evaluate(objective)
        kept = math.isfinite(after) and after <= before
        if not kept:
            self._restore(initial)
            after = before
        weights = {
            state.name: QuantizedWeight(
                self.roundings[state.name].codes(),
                self.roundings[state.name].grid,
                None if state.layer.bias is None else state.layer.bias.detach().clone(),
            )
            for state in self.unit.layers()
        }
        return Outcome(before, after, kept, weights, [q.numbers['scale'] for q in self.unit.quantizers()])

    def _optimize(self, objective: Objective, advance: Callable[[], Any]) -> None:
        options = self.options
        groups = [{'params': [p for r in self.roundings.values() for p in r.trained()], 'lr': options.rounding_lr}]
        scales = [learner.scale for learner in self.learners if learner.scale.requires_grad]
        if scales:
            groups.append({'params': scales, 'lr': options.scale_lr, 'peak_lr': options.scale_lr})
        optimizer = torch.optim.Adam(groups, fused=True)
        self._set_drop(options.drop)
        iterations = options.iterations_of(self.unit.is_block)
        for iteration in range(iterations):
            progress = iteration / iterations
            for group in optimizer.param_groups:
                if 'peak_lr' in group:
                    group['lr'] = group['peak_lr'] * 0.5 * (1 + math.cos(math.pi * progress))
            loss = objective.sample(self.source, iteration) + self._regularization(progress)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            synchronize(self.learners)
            advance()
        self._set_drop(0.0)

    def _regularization(self, progress: float) -> Tensor | float:
        options = self.options
        beta = regularization_beta(progress, options.beta_start, options.beta_stop, options.warmup)
        if beta is None or not options.regularization:
            return 0.0
        return options.regularization * sum(r.regularization(beta) for r in self.roundings.values())

    def _evaluate(self, objective: Objective) -> float:
        self._set_hard(True)
        with torch.no_grad():
            value = float(objective.total())
        self._set_hard(False)
        return value

    def _set_hard(self, hard: bool) -> None:
        for rounding in self.roundings.values():
            rounding.hard = hard

    def _set_drop(self, drop: float) -> None:
        for learner in self.learners:
            learner.drop = drop

    def _snapshot(self) -> list[Tensor]:
        return [t.detach().clone() for t in self._trained()]

    def _restore(self, values: list[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._trained(), values, strict=True):
                tensor.copy_(value)
        for learner in self.learners:
            learner.quantizer.set_scale(learner.scale.detach())

    def _trained(self) -> list[Tensor]:
        return [t for r in self.roundings.values() for t in r.trained()] + [le.scale for le in self.learners]
