"""Fit one layer to its rows: the range of its input, its weight, its codes."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.balance import balanced
from ...core.code_search import search_codes
from ...core.quantizers.channel_uniform import ChannelUniformQuantizer
from ...core.reparameterization import Reparameterization, fold_
from ...core.row_problem import RowProblem
from ..state import Calibration, SiteState
from .channel_grids import ChannelGrid, published_channel_grid, search_input_grid
from .damping import choose_damping, divided
from .dealing import FittedLayer, Pairs, can_deal, deal_units_, interleaved
from .options import SequentialOptions
from .products import ProductSample, fit_products
from .ranges import fit_tensor_
from .rows import Rows
from .streams import Stop
from .tuning import BlockCall, tune_block


class LayerFitter:
    """Fits layers in the order in which they are handed over; afterwards they are quantized.

    Args:
        calibration: whose sites these are.
        reference: the float model, with its own LayerNorms and weights whatever is folded in the other one.
        options: of the step.

    Attributes:
        left_out, damped: layers that images held back would not have corrected, or not as much, see `damping_notes`.
        dealt: layer -> how many of how many places of its hidden units hold copies.
    """

    def __init__(self, calibration: Calibration, reference: nn.Module, options: SequentialOptions) -> None:
        self.reference = reference
        self.options, self.modules = options, dict(calibration.model.named_modules())
        self.behind: dict[str, list[SiteState]] = {}
        for state in calibration.layers():
            if state.input_specs[0].granularity == 'channel' and state.site.norm is not None:
                self.behind.setdefault(state.site.norm, []).append(state)
        self.calibration = calibration
        self.unfitted = {state.name for state in calibration.layers()}
        self.changes: dict[str, Reparameterization] = {}  # of LayerNorms that have been folded
        self.samples_products, self.tunes_blocks = options.clipping, options.tuning > 0
        self.left_out: list[str] = []
        self.damped: dict[str, float] = {}
        self.states = {state.name: state for state in calibration.layers()}
        self.copies: dict[str, Pairs] = {}  # of the units that a layer's input is
        self.dealt: dict[str, tuple[int, int]] = {}
        images, views = calibration.task.sources(), len(calibration.task)
        self.margin = options.widening(images, views)
        self.least_share = images**-2 if views > images else 0.0  # rows of copies are not independent

    def fit(self, state: SiteState, rows: Rows) -> None:
        """Fit and install one layer."""
        known = self.reference.get_submodule(state.name)
        target = nn.functional.linear(rows.x, known.weight_matrix(), known.bias)
        if rows.stream_error is not None and self.options.residual_target:
            target += rows.stream_error
        is_weighted = self.options.region_weights if state.site.block is None else self.options.token_weights
        weights = rows.weights if is_weighted and rows.weights is not None else target.new_ones(len(target))
        images = rows.images
        x = self._fit_input(state, rows.x_q, weights)
        del rows  # of the widest layers as large as all that follows
        if self.options.balance and state.site.mixed_into in self.unfitted:
            target = self._balance(state, target, weights)
        fitted = self._fit_weight(state, x, target, weights, images)
        self.unfitted.discard(state.name)
        if self.options.dealing:
            self._deal(state, fitted)
        state.activate()

    def fit_products(self, states: Sequence[SiteState], samples: Mapping[str, ProductSample]) -> None:
        """Fit products of activations to samples of their operands, and switch them on."""
        fit_products(states, samples, self.margin)

    def leave(self, state: SiteState) -> None:
        """Quantize a site of which there are no rows with what is known: its input as fitted, its weight rounded."""
        if state.has_weight and not state.layer.has_quantized_weight:
            state.round_to_nearest_()
        state.activate()

    def tune(self, name: str, states: Sequence[SiteState], stops: Sequence[Stop], outputs: Sequence[Any]) -> None:
        """Train scales, LayerNorms and biases of a block against what the float model's returns."""
        started = time.perf_counter()
        calls = [
            BlockCall(stop.args, stop.keywords, output, self.options.token_weights)
            for stop, output in zip(stops, outputs, strict=True)
        ]
        tuned = tune_block(self.modules[name], states, calls, self.options.tuning, self.calibration.seed)
        seconds = time.perf_counter() - started
        self.calibration.units.append({'name': name} | asdict(tuned) | {'seconds': seconds})

    def _fit_input(self, state: SiteState, x: Tensor, weights: Tensor) -> Tensor:
        """Choose the grid of a layer's input and return the rows on it, as its product sees them."""
        quantizer, spec = state.quantizers()[0], state.input_specs[0]
        if spec.granularity == 'channel' and state.site.norm is not None:
            if state.site.norm not in self.changes:
                grid = self._channel_grid(state, self.behind[state.site.norm], x, weights)
                self._fold(state.site.norm, grid)
                x = grid.change.apply(x)
        elif isinstance(quantizer, ChannelUniformQuantizer):
            grid = self._channel_grid(state, [state], x, weights)
            if state.name in self.copies:
                grid = interleaved(grid, x, weights, self.copies[state.name])
            grid.fold_into_(state.layer)
        elif self.options.clipping and state.site.roles != ('image',):
            fit_tensor_(quantizer, x, self.margin)
        return state.layer.quantized_rows(x)

    def _channel_grid(self, state: SiteState, states: Sequence[SiteState], x: Tensor, weights: Tensor) -> ChannelGrid:
        """Return the change of variables after which one grid serves all channels of the input of `states`."""
        spec, histogram = state.input_specs[0], state.histograms[0]
        if self.options.clipping or histogram.num_channels != x.shape[1]:
            layers, reach = [other.layer for other in states], self.options.reach_at(spec.bits)
            return search_input_grid(layers, x, weights, spec, self.margin, reach)
        return published_channel_grid(histogram, spec)

    def _fold(self, name: str, grid: ChannelGrid) -> None:
        """Change a LayerNorm and all layers behind it, and give these their common grid."""
        norm, states = self.modules[name], self.behind[name]
        fold_(norm.weight, norm.bias, [(state.layer.weight, state.layer.bias) for state in states], grid.change)
        for state in states:
            grid.install_(state.quantizers()[0])
        windows = states[0].site.windows
        if windows is not None:
            self.modules[windows].pad_value.copy_(grid.change.pad_value)
        self.calibration.folded.add(name)
        self.changes[name] = grid.change

    def _damping(self, name: str, first: float, parts: tuple[RowProblem, RowProblem] | None) -> float | None:
        """Return the damping of a layer's correction, None for no correction, and note what images held back say.

        Args:
            first: what the options say.
            parts: the layer's problem without the images held back, and theirs; None if there are too few.
        """
        if not self.options.correct:
            return None
        if self.options.damping is not None:
            return first
        first = max(first, self.least_share)
        share = first if parts is None else choose_damping(*parts, first)
        if share is None:
            self.left_out.append(name)
        elif share > first:
            self.damped[name] = share
        return share

    def _fit_weight(self, state: SiteState, x: Tensor, target: Tensor, weights: Tensor, images: Tensor) -> FittedLayer:
        layer, options = state.layer, self.options
        weight, bias = layer.weight_matrix().clone(), _copy(layer.bias)
        residual = target.sub_(nn.functional.linear(x, weight, bias))  # of the widest layers 100 MB
        problem, first = RowProblem(x, residual, weights), options.share(len(x), x.shape[1])
        parts = divided(x, residual, weights, images) if options.correct and options.damping is None else None
        share = self._damping(state.name, first, parts)
        if parts is not None:
            problem.take_gram(parts)
            del parts
        report = state.report
        report.rows, report.damping = len(x), share
        change, error = torch.zeros_like(weight), problem.error()
        report.output_mse['activation'] = error
        if share is not None:
            change = problem.correction(share)
            error = problem.corrected_error(change, share)
        report.output_mse['correction'] = error
        wanted = weight + change
        quantized = search_codes(wanted, problem.metric(first), layer.weight_spec)
        total = quantized.weight - weight
        report.output_mse['codes'] = problem.error(total)
        if bias is not None:
            bias = bias + problem.bias_change(total)
        prior_bias, quantized = _copy(layer.bias), replace(quantized, bias=bias)
        layer.install_(quantized)
        return FittedLayer(x, weights, problem, first, weight, prior_bias, wanted, quantized)

    def _deal(self, state: SiteState, fitted: FittedLayer) -> None:
        """Deal the places of a layer's hidden units anew, where that can be done and it stands outside of blocks."""
        if state.site.units is None or state.site.block is not None or fitted.bias is None:
            return
        consumers = [self.states[name] for name in state.site.units.consumers if name in self.unfitted]
        if len(consumers) < len(state.site.units.consumers) or not can_deal(state, consumers):
            return
        pairs = deal_units_(state, fitted, consumers, self.margin)
        if pairs:
            self.dealt[state.name] = len(pairs), len(fitted.prior)
            self.copies |= {other.name: pairs for other in consumers}

    def _balance(self, state: SiteState, target: Tensor, weights: Tensor) -> Tensor:
        """Change the coordinates of queries, keys and values and of the layer behind; return the target in them."""
        layer, behind = state.layer, self.modules[state.site.mixed_into]
        has_biases = layer.bias is not None and behind.bias is not None
        balance = balanced(target, weights, state.site.heads, state.input_specs[0].bits, has_biases)
        layer.weight.copy_(balance.turn(layer.weight.T.double()).T)
        if layer.bias is not None:
            layer.bias.copy_(balance.apply(layer.bias.double()))
        taken = balance.undo(behind.weight.double())
        behind.weight.copy_(taken)
        if has_biases:
            behind.bias.add_(balance.owed(taken))
        return balance.apply(target)


def _copy(bias: nn.Parameter | None) -> Tensor | None:
    return None if bias is None else bias.detach().clone()
