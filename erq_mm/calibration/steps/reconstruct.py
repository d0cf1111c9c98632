"""Reconstruct the model unit by unit: AdaRound, BRECQ, QDrop, PD-Quant, MGRQ and APHQ-ViT are options of this step."""

import copy
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...core.random_source import RandomSource
from ...core.weight_grid import QuantizedWeight, WeightGrid
from ..reconstruction.capture import RowCapture, capture_calls
from ..reconstruction.main_memory import release_pinned_pages
from ..reconstruction.objectives import BlockObjective, RowsObjective
from ..reconstruction.options import ReconstructionOptions
from ..reconstruction.sensitivity import fisher_weights, global_term, perturbation_weights
from ..reconstruction.trainer import Objective, Outcome, UnitTrainer
from ..reconstruction.units import Segment, Unit, segments
from ..state import Calibration, differentiable


def reconstruct(calibration: Calibration, **options: Any) -> None:
    """Train the roundings (and scales) of one unit after the other against the float model, then quantize it.

    Every unit keeps what it learned only if its own objective fell; layers that saw no calibration row are rounded to
    nearest. With a store, finished units are not run again.

    Args:
        options: fields of `ReconstructionOptions`.
    """
    _Reconstruction(calibration, ReconstructionOptions(**options)).run()


class _Reconstruction:
    def __init__(self, calibration: Calibration, options: ReconstructionOptions) -> None:
        self.calibration, self.options = calibration, options
        self.model, self.task = calibration.model, calibration.task
        count = len(self.task) if options.images is None else min(options.images, len(self.task))
        self.images = range(count)
        self.unpaired: list[str] = []  # layers whose quantized inputs have no partner among the float ones

    def run(self) -> None:
        self.reference = copy.deepcopy(self.model)
        parts = segments(self.calibration.sites, self.options.unit)
        total = sum(self._iterations(segment) * len(segment.units) for segment in parts)
        progress = self.calibration.progress
        bar = None if progress is None else progress.add_task('reconstructing (iterations)', total=total)
        self._advance = (lambda count=1: None) if bar is None else (lambda count=1: progress.advance(bar, count))
        for index, segment in enumerate(parts):
            self._run_segment(segment, seed=self.calibration.seed * 100_003 + 1000 * index)
        del self.reference
        if self.unpaired:
            self.calibration.notes.append(
                f'{len(self.unpaired)} layers, e.g. {self.unpaired[0]}, were reconstructed on float inputs: the model '
                'chooses what they look at, so that its quantized rows have no partner'
            )

    def _iterations(self, segment: Segment) -> int:
        return self.options.iterations_of(segment.is_block) if self._is_trained(segment) else 0

    def _is_trained(self, segment: Segment) -> bool:
        if segment.states[0].site.block is not None or self.options.outside == 'all':
            return True
        return self.options.outside == 'neck' and segment.states[0].name.startswith('neck.')

    def _run_segment(self, segment: Segment, seed: int) -> None:
        seeds = {unit.name: seed + offset for offset, unit in enumerate(segment.units)}
        saved = {name: self._load(name) for name in seeds}
        trained, capture = self._is_trained(segment), None
        if not segment.is_block:
            for product in (state for state in segment.states if not state.has_weight):
                product.activate()
            if trained and not all(saved.values()):
                capture = RowCapture(self.reference, seeds, self.task, self.images, self.options.rows)
        for unit in segment.units if capture is None else _by_call(segment.units, capture.order):
            started, content = time.perf_counter(), saved[unit.name]
            if content is None and trained:
                content = self._train(unit, capture, seeds[unit.name])
                release_pinned_pages()
                if content is not None:
                    content['seconds'] = time.perf_counter() - started
                    self._save(unit.name, content)
            elif trained:
                self._advance(self.options.iterations_of(unit.is_block))
            self._install(unit, content)
            for state in unit.states:
                state.activate()

    @property
    def _quantized(self) -> bool:
        return self.options.inputs == 'quantized'

    def _train(self, unit: Unit, capture: RowCapture | None, seed: int) -> dict[str, Any] | None:
        """Return what is known about the unit after training; None if nothing reached it."""
        source = RandomSource(seed, unit.device())
        with differentiable(self.model), differentiable(self.reference):
            objective = self._block_objective(unit) if capture is None else self._rows_objective(unit, capture)
            if objective is None:
                self._advance(self.options.iterations_of(unit.is_block))
                return None
            with UnitTrainer(unit, self.options, source) as trainer:
                outcome = trainer.train(objective, self._advance)
        return _content(outcome)

    def _rows_objective(self, unit: Unit, capture: RowCapture) -> Objective | None:
        quantized = self._quantized and self.task.pairs_rows(self.model, unit.name)
        rows = capture.rows(unit.name, self.model if quantized else None)
        if rows is None:
            return None
        if self._quantized and not quantized:
            self.unpaired.append(unit.name)
        layer = unit.states[0].layer
        weight = layer.weight.detach().clone()
        bias = None if layer.bias is None else layer.bias.detach()
        return RowsObjective(layer, rows, weight, bias, self.options)

    def _block_objective(self, unit: Unit) -> Objective | None:
        options, name = self.options, unit.name
        with torch.no_grad():
            calls = capture_calls(self.model, self.reference, name, self.task, self.images, self._quantized)
        if not calls:
            return None
        weights = None
        if options.metric == 'fisher':
            weights = fisher_weights(self.model, name, self.task, calls)
        elif options.metric == 'perturbation':
            weights = perturbation_weights(self.reference, name, self.task, calls, options.perturbation)
        if weights is None and options.metric != 'mse':
            note = f'{name}: nothing the model predicts depends on it; reconstructed for the plain squared error'
            self.calibration.notes.append(note)
        divergence = global_term(self.reference, name, self.task, calls) if options.global_weight else None
        blocks = self.model.get_submodule(name), self.reference.get_submodule(name)
        return BlockObjective(*blocks, calls, options, weights, divergence)

    def _install(self, unit: Unit, content: dict[str, Any] | None) -> None:
        if content is None:
            for state in unit.layers():
                state.round_to_nearest_()
            return
        for state in unit.layers():
            state.layer.install_(_weight(content['weights'][state.name], state.layer))
        for quantizer, scale in zip(unit.quantizers(), content['scales'], strict=True):
            quantizer.set_scale(scale)
        keys = ('before', 'after', 'kept', 'seconds')
        self.calibration.units.append({'name': unit.name} | {key: content[key] for key in keys})

    def _load(self, name: str) -> dict[str, Any] | None:
        return None if self.calibration.store is None else self.calibration.store.load(name)

    def _save(self, name: str, content: dict[str, Any]) -> None:
        if self.calibration.store is not None:
            self.calibration.store.save(name, content)


def _by_call(units: Sequence[Unit], order: Sequence[str]) -> list[Unit]:
    """Return the units in the order of their calls (in a box head not that of the modules); those never called last."""
    place = {name: position for position, name in enumerate(order)}
    return sorted(units, key=lambda unit: place.get(unit.name, len(place)))


def _content(outcome: Outcome) -> dict[str, Any]:
    weights = {
        name: {
            'codes': weight.codes.to(torch.uint8),
            'scale': weight.grid.scale,
            'zero_point': weight.grid.zero_point,
            'max_code': weight.grid.max_code,
            'group': weight.grid.group,
            'bias': weight.bias,
        }
        for name, weight in outcome.weights.items()
    }
    return {
        'before': outcome.before,
        'after': outcome.after,
        'kept': outcome.kept,
        'scales': outcome.scales,
        'weights': weights,
    }


def _weight(saved: dict[str, Any], layer: nn.Module) -> QuantizedWeight:
    device, dtype = layer.weight.device, layer.weight.dtype
    grid = WeightGrid(saved['scale'], saved['zero_point'], saved['max_code'], saved['group']).to(device)
    bias = None if saved['bias'] is None else saved['bias'].to(device)
    return QuantizedWeight(saved['codes'].to(device, dtype), grid, bias)
