"""Rows of the layers of one block: float ones as the float forwards go through it, quantized ones by running the block
alone on the inputs that its callers are stopped with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..state import SiteState
from .rows import Rows, choose_rows, pick_rows, row_count, rows_per_image, token_weights
from .streams import Stop

PAD_WEIGHT = 0.1  # of padded window positions, whose keys and values reach real tokens; as queries they reach nothing


class _Reached(Exception):
    """Ends a run of a block whose rest is not needed."""


@dataclass
class _Seen:
    """What one run of a block shows: the inputs of modules, in the order of their calls."""

    inputs: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)

    def first(self, name: str) -> list[Tensor]:
        """Return the first arguments of the calls of a module."""
        return [args[0] for args in self.inputs.get(name, [])]


class BlockRows:
    """Rows of the layers of a block, in both models.

    Args:
        model, reference: quantized so far, and float.
        name: of the block, '' for a model that is one.
        states: its sites.
        stops: of all groups of images in the quantized model.
        advance: lets the float forward of a stop, by its place among them, go on through the block, and returns where
            it was.
        limit: rows kept of a layer, of all images together.
        seed: of the choice of rows.
        keeps_outputs: whether `outputs` is wanted.

    Attributes:
        order: names of the sites in the order of their first calls.
        outputs: what the float model's block returned at every stop; empty if they are not wanted.
    """

    def __init__(
        self,
        model: nn.Module,
        reference: nn.Module,
        name: str,
        states: Sequence[SiteState],
        stops: Sequence[Stop],
        advance: Callable[[int], Stop],
        limit: int,
        seed: int,
        keeps_outputs: bool = False,
    ) -> None:
        self.model, self.reference, self.name = model, reference, name
        self.states = {state.name: state for state in states}
        self.stops, self.limit, self.seed = stops, limit, seed
        self._advance = advance
        self.order: list[str] = []
        self.outputs: list[Any] = []
        with _outputs(reference.get_submodule(name), self.outputs) if keeps_outputs else nullcontext():
            self._float = [self._float_rows(index) for index in range(len(stops))]

    def rows(self, state: SiteState) -> list[Rows]:
        """Return the rows of a layer of every group of images, as the model is quantized now; they are not kept."""
        found = []
        for stop, known in zip(self.stops, self._float, strict=True):
            kept = known.pop(state.name, None)
            if kept is None:
                continue
            seen = self._run(stop, self._watched(state), until=(state.name, kept.calls))
            x_q = pick_rows(state.layer, seen.first(state.name), kept.chosen)
            error = None
            if kept.stream is not None:
                error = kept.stream - self._stream(self.model, state, seen, kept.chosen)
            found.append(Rows(kept.x, x_q, error, kept.weights, torch.full((len(x_q),), kept.index)))
        return found

    def products(self, names: Sequence[str], until: str, see: Callable[[str, tuple[Tensor, Tensor]], None]) -> None:
        """Show `see` the operands of products of activations, as the model is quantized now.

        Args:
            names: of the products.
            until: name of the site whose calls end the run.
        """
        for stop, known in zip(self.stops, self._float, strict=True):
            if until in known:
                seen = self._run(stop, names, until=(until, known[until].calls))
                for name in names:
                    for args in seen.inputs.get(name, []):
                        see(name, args)

    def _watched(self, state: SiteState) -> list[str]:
        names = [state.name, state.site.stream, state.site.windows if state.site.stream else None]
        return [name for name in names if name is not None]

    def _float_rows(self, index: int) -> dict[str, '_Kept']:
        """Let one float forward go on, and return what is kept of every layer."""
        layers = [state for state in self.states.values() if state.has_weight]
        names = {name for state in layers for name in self._watched(state)} | set(self.states)
        with _watched(self.reference, list(names)) as seen:
            stop = self._advance(index)
        seen.inputs[self.name] = [(*stop.args, *stop.keywords.values())]  # the block was called before it was watched
        self.order += [name for name in seen.inputs if name in self.states and name not in self.order]
        kept = {}
        for state in layers:
            inputs = seen.first(state.name)
            if not inputs:
                continue
            total = sum(row_count(state.layer, x) for x in inputs)
            limit = rows_per_image(state.layer, self.limit, len(self.stops))
            chosen = choose_rows(total, limit, self.seed + index)
            x = pick_rows(self.reference.get_submodule(state.name), inputs, chosen)
            kept[state.name] = _Kept(index, len(inputs), chosen, x)
            if state.site.stream is not None:
                kept[state.name].stream = self._stream(self.reference, state, seen, chosen)
        self._weigh(kept, seen)
        return kept

    def _weigh(self, kept: dict[str, '_Kept'], seen: _Seen) -> None:
        """Weight the rows of every sublayer by the variance of the stream behind it, which the next norm divides by."""
        for name, known in kept.items():
            state = self.states[name]
            if known.stream is None:
                continue
            layer = self.reference.get_submodule(name)
            after = known.stream + torch.nn.functional.linear(known.x, layer.weight, layer.bias)
            weights = token_weights(after)
            is_real = self._is_real(state, seen, known.chosen)
            known.weights = weights * is_real / (weights * is_real).mean().clamp(min=1e-30)
            for other in self.states.values():  # the layers that the sublayer begins with see the same tokens
                if other.site.norm == state.site.stream and other.name in kept:
                    begun = kept[other.name]
                    if len(begun.chosen) == len(known.chosen) and torch.equal(begun.chosen, known.chosen):
                        mean = weights[is_real > 0].mean() if bool((is_real > 0).any()) else weights.mean()
                        begun.weights = torch.where(is_real > 0, weights, PAD_WEIGHT * mean) / mean

    def _stream(self, model: nn.Module, state: SiteState, seen: _Seen, chosen: Tensor) -> Tensor:
        """Return the rows of the stream that the output of a layer is added to, in the order of the layer's rows."""
        tokens = seen.first(state.site.stream)[0]
        if state.site.windows is not None:
            tokens = self._arranged(model, state, seen, tokens, tokens.new_zeros(tokens.shape[-1]))
        return tokens.reshape(-1, tokens.shape[-1])[chosen.to(tokens.device)]

    def _is_real(self, state: SiteState, seen: _Seen, chosen: Tensor) -> Tensor:
        """Return one for rows of tokens and zero for those of padded places."""
        tokens = seen.first(state.site.stream)[0]
        ones = tokens.new_ones(*tokens.shape[:-1], 1)
        if state.site.windows is not None:
            ones = self._arranged(self.reference, state, seen, ones, ones.new_zeros(1))
        return ones.reshape(-1)[chosen.to(ones.device)]

    def _arranged(self, model: nn.Module, state: SiteState, seen: _Seen, tokens: Tensor, fill: Tensor) -> Tensor:
        others = seen.inputs[state.site.windows][0][1:]
        return model.get_submodule(state.site.windows).arrange(tokens, fill, *others)

    def _run(self, stop: Stop, names: Sequence[str], until: tuple[str, int]) -> _Seen:
        """Run the block on the inputs of a stop, watching modules; the n-th call of one ends it, `until` (name, n)."""
        with _watched(self.model, names, until) as seen:
            try:
                self.model.get_submodule(self.name)(*stop.args, **stop.keywords)
            except _Reached:
                pass
        return seen


@dataclass
class _Kept:
    """What is kept of one layer and one group of images in the float model.

    Attributes:
        index: of the group.
        calls: of the layer.
        chosen: which of its rows.
        x, stream, weights: as in `Rows`.
    """

    index: int
    calls: int
    chosen: Tensor
    x: Tensor
    stream: Tensor | None = None
    weights: Tensor | None = None


@contextmanager
def _outputs(module: nn.Module, found: list[Any]) -> Iterator[None]:
    """Append what a module returns while the block runs."""
    handle = module.register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(model: nn.Module, names: Sequence[str], until: tuple[str, int] | None = None) -> Iterator[_Seen]:
    seen = _Seen()

    def observer(name: str) -> Callable[[nn.Module, tuple, dict], None]:
        def see(_module: nn.Module, args: tuple, keywords: dict) -> None:
            seen.inputs.setdefault(name, []).append((*args, *keywords.values()))
            if until is not None and name == until[0] and len(seen.inputs[name]) == until[1]:
                raise _Reached

        return see

    handles = [
        model.get_submodule(name).register_forward_pre_hook(observer(name), with_kwargs=True) for name in set(names)
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
