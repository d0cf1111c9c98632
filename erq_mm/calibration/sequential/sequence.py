"""The layers of a model one after the other, each with its rows in the float model and in the one quantized so far.

What is done with a layer is the business of a `Fitter`.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from ...core.reparameterization import Reparameterization
from ..state import Calibration, SiteState
from .block import BlockRows
from .products import ProductSample
from .rows import Rows, choose_rows, joined, pick_rows, relevance_weights, row_count, rows_per_image
from .streams import Stop, Streams, counted_calls

SEED_STEP = 1009
MADE_ROWS = 4  # times as many rows are kept where a task can make some


class Fitter(Protocol):
    """What is done with layers; a layer is quantized when it returns.

    Attributes:
        changes: LayerNorm -> what has been folded into it on the way, in the quantized model alone.
        samples_products: whether it wants to see operands of products of activations.
        tunes_blocks: whether it wants to see whole blocks once their layers are fitted.
    """

    changes: Mapping[str, Reparameterization]
    samples_products: bool
    tunes_blocks: bool

    def fit(self, state: SiteState, rows: Rows) -> None:
        """Fit and install one layer."""

    def fit_products(self, states: Sequence[SiteState], samples: Mapping[str, ProductSample]) -> None:
        """Fit products of activations, and switch them on."""

    def leave(self, state: SiteState) -> None:
        """Quantize a site of which there are no rows."""

    def tune(self, name: str, states: Sequence[SiteState], stops: Sequence[Stop], outputs: Sequence[Any]) -> None:
        """Improve a whole block, given the calls of the quantized model and the outputs of the float one."""


class LayerSequence:
    """A model's way from its first unit to its last.

    A unit is a block of a known family, or a layer outside of all blocks. Layers that one forward calls several times
    (heads shared by the levels of a pyramid), and those whose float and quantized rows do not belong together, come at
    the end, next to each other, on float rows.

    Args:
        calibration: its model, which nothing has put on its grids yet.
        rows: of a layer that are kept at most, of all images together.
        more_rows: how many a task may make of every group of images; where it can, four times as many are kept.

    Attributes:
        reference: the float model, as it was when the sequence was made.
    """

    def __init__(self, calibration: Calibration, rows: int, more_rows: int = 0) -> None:
        self.calibration, self.limit, self.more_rows = calibration, rows, more_rows
        self.model, self.task = calibration.model, calibration.task
        self.groups = self.task.groups()
        self.blocks: dict[str, list[SiteState]] = {}
        for state in calibration.sites:
            if state.site.block is not None:
                self.blocks.setdefault(state.site.block, []).append(state)
        self.layers = {state.name: state for state in calibration.layers() if state.site.block is None}
        calibration.prove()
        calibration.forget_proof()
        self.reference = copy.deepcopy(self.model)

    def run(self, fitter: Fitter) -> None:
        """Go through the model once."""
        self.fitter, calibration = fitter, self.calibration
        units, progress = self._units(), calibration.progress
        bar = None if progress is None else progress.add_task('fitting units', total=len(units))
        streams = [Streams(model, self.task, self.groups, units) for model in (self.model, self.reference)]
        try:
            for stream in streams:
                stream.start()
            for index, (unit, groups) in enumerate(self._stops(*streams)):
                self._fit(unit, groups, *streams, SEED_STEP * index + calibration.seed)
                self._change_stopped(unit, streams[0])
                if bar is not None:
                    progress.advance(bar)
        finally:
            for stream in streams:
                stream.close()
        self._fit_rest()

    def _units(self) -> list[str]:
        """Return the blocks and layers that a forward calls exactly once."""
        names = [*self.blocks, *self.layers]
        counts = self.calibration.calls
        if any(name not in counts for name in names):  # nobody has counted, or swapping has made modules of its own
            with counted_calls(self.reference, names) as counts:
                self.task.forward_group(self.reference, self.groups[0])
        return [name for name in names if counts[name] == 1 and self._is_paired(name)]

    def _is_paired(self, name: str) -> bool:
        return self.task.pairs_rows(self.model, name)

    def _stops(self, quantized: Streams, floating: Streams) -> Iterator[tuple[str, list[int]]]:
        """Yield every unit with the groups that have stopped there.

        Float forwards are sent on while it is fitted, always ahead of the quantized ones; these go on afterwards.
        """
        while any(stop is not None for stop in floating.stops):
            unit = next(stop.unit for stop in floating.stops if stop is not None)
            there = [index for index, stop in enumerate(floating.stops) if stop is not None and stop.unit == unit]
            stops = [quantized.stops[index] for index in there]
            if any(stop is None or stop.unit != unit for stop in stops):
                raise RuntimeError(
                    f'the quantized model does not call {unit} where the float model does: its forward depends on '
                    "values, so its rows cannot be paired. Take a recipe that runs the float model only, e.g. 'erq'"
                )
            floating.done.add(unit)
            quantized.done.add(unit)
            del stops  # whose arguments only paused forwards should hold
            yield unit, there
            for index in there:
                quantized.advance(index)

    def _fit(self, unit: str, groups: list[int], quantized: Streams, floating: Streams, seed: int) -> None:
        stops = [quantized.stops[index] for index in groups]
        if unit in self.blocks:
            self._fit_block(unit, stops, lambda place: floating.advance(groups[place]), seed)
            return
        state, known = self.layers[unit], [floating.stops[index] for index in groups]
        parts = [
            self._layer_rows(state, place, groups[place], *pair, seed)
            for place, pair in enumerate(zip(stops, known, strict=True))
        ]
        del known
        for index in groups:
            self._add_rows(floating.stops[index], index, quantized, floating)
            floating.advance(index)
        self._fit_layer(state, parts)

    def _add_rows(self, stop: Stop, index: int, *streams: Streams) -> None:
        """Let the forwards of a group go on from a layer, not fitted to them itself, with rows that the task makes."""
        if not self.more_rows:
            return
        seed = SEED_STEP * index + self.calibration.seed
        add = self.task.more_rows(self.reference, stop.unit, self.groups[index], stop.args[0], self.more_rows, seed)
        if add is not None:
            for stream in streams:
                stream.additions[stop.unit, index] = add

    def _change_stopped(self, unit: str, stream: Streams) -> None:
        """Let a layer outside of blocks go on with what its LayerNorm would give now that it is folded."""
        norm = self.layers[unit].site.norm if unit in self.layers else None
        if norm in self.fitter.changes:
            stream.changes[unit] = self.fitter.changes[norm].apply

    def _fit_block(self, name: str, stops: list[Stop], advance: Callable[[int], Stop], seed: int) -> None:
        states = {state.name: state for state in self.blocks[name]}
        tunes = self.fitter.tunes_blocks
        block = BlockRows(
            self.model, self.reference, name, list(states.values()), stops, advance, self.limit, seed, tunes
        )
        pending: list[SiteState] = []
        for state in (states[site] for site in block.order):
            if not state.has_weight:
                pending.append(state)
                continue
            if pending:
                self._fit_products(block, pending, state.name, seed)
                pending = []
            self._fit_layer(state, block.rows(state))
        for state in states.values():
            if state.name not in block.order or state in pending:
                self.fitter.leave(state)
        if tunes:
            self.fitter.tune(name, list(states.values()), stops, block.outputs)

    def _fit_products(self, block: BlockRows, states: Sequence[SiteState], until: str, seed: int) -> None:
        samples = {state.name: ProductSample(seed) for state in states}
        if self.fitter.samples_products:
            block.products(list(samples), until, lambda name, operands: samples[name].add(*operands))
        self.fitter.fit_products(states, samples)

    def _layer_rows(self, state: SiteState, index: int, group: int, quantized: Stop, floating: Stop, seed: int) -> Rows:
        x, x_q = floating.args[0], quantized.args[0]
        total = row_count(state.layer, x)
        weights = relevance_weights(self.task.relevance(self.model, state.name, self.groups[group]), total)
        limit = self.limit * (MADE_ROWS if self.more_rows and weights is not None else 1)
        chosen = choose_rows(total, rows_per_image(state.layer, limit, len(self.groups)), seed + index)
        rows, rows_q = (pick_rows(state.layer, [tensor], chosen) for tensor in (x, x_q))
        weights = None if weights is None else weights.to(rows.device, rows.dtype)[chosen.to(rows.device)]
        return Rows(rows, self._folded(state, rows_q), None, weights, torch.full((len(rows),), index))

    def _folded(self, state: SiteState, rows: torch.Tensor) -> torch.Tensor:
        """Return rows from behind a LayerNorm as it was in the way it gives them now, if it has been folded."""
        change = self.fitter.changes.get(state.site.norm)
        return rows if change is None else change.apply(rows)

    def _fit_layer(self, state: SiteState, parts: list[Rows]) -> None:
        if any(len(part.x) for part in parts):
            self.fitter.fit(state, joined(parts))
        else:
            self.fitter.leave(state)

    def _fit_rest(self) -> None:
        rest = [state for state in self.calibration.layers() if not state.layer.has_quantized_weight]
        inputs: dict[str, list[list[torch.Tensor]]] = {state.name: [] for state in rest}
        for group in self.groups if rest else []:
            self._collect(group, rest, inputs)
        for state in rest:
            parts = [
                Rows(x, self._folded(state, x), None, None, torch.full((len(x),), index))
                for index, x in enumerate(inputs[state.name])
            ]
            self._fit_layer(state, parts)
        for state in self.calibration.sites:
            if not state.has_weight:
                state.activate()

    def _collect(self, group: Sequence[int], states: Sequence[SiteState], found: dict[str, list[Any]]) -> None:
        calls: dict[str, list[torch.Tensor]] = {state.name: [] for state in states}
        handles = [
            self.reference.get_submodule(state.name).register_forward_pre_hook(
                lambda _module, args, name=state.name: calls[name].append(args[0])
            )
            for state in states
        ]
        try:
            self.task.forward_group(self.reference, group)
        finally:
            for handle in handles:
                handle.remove()
        for state in states:
            total = sum(row_count(state.layer, x) for x in calls[state.name])
            limit = rows_per_image(state.layer, self.limit, len(self.groups))
            chosen = choose_rows(total, limit, self.calibration.seed)
            found[state.name].append(pick_rows(state.layer, calls[state.name], chosen))
