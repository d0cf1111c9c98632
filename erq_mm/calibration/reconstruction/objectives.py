"""Objectives of reconstruction: a layer on its rows, a block on its calls with the terms of the published methods."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.random_source import RandomSource
from ...nn.layers import QuantLayer
from .capture import Call, Rows
from .main_memory import from_main_memory
from .options import ReconstructionOptions

ROWS_PER_CHUNK = 4096


class RowsObjective:
    """Squared output error of one layer, summed over outputs, mean over rows (AdaRound, Eq. 25 with quantized inputs).

    Args:
        layer: with its trained weight in place.
        rows: its inputs.
        weight, bias: of the float model.
    """

    def __init__(
        self, layer: QuantLayer, rows: Rows, weight: Tensor, bias: Tensor | None, options: ReconstructionOptions
    ) -> None:
        self.layer, self.rows, self.options = layer, rows, options
        self.weight, self.bias = weight.flatten(1), bias
        self._unit = None if options.relative_terms else 1.0

    def sample(self, source: RandomSource, iteration: int) -> Tensor:
        count = len(self.rows.x)
        chosen = source.positions(count, min(self.options.batch_rows, count))
        x, x_q = self.rows.x[chosen], self.rows.x_q[chosen]
        return self._error(x, dropped(x, x_q, self.options.drop, source)) / (self._unit or 1.0)

    def total(self) -> Tensor:
        parts = zip(self.rows.x.split(ROWS_PER_CHUNK), self.rows.x_q.split(ROWS_PER_CHUNK), strict=True)
        total = sum(self._error(x, x_q) * len(x) for x, x_q in parts) / len(self.rows.x)
        if self._unit is None:
            self._unit = max(float(total), 1e-12)
        return total / self._unit

    def _error(self, x: Tensor, x_q: Tensor) -> Tensor:
        output = F.linear(self.layer.input_quantizer(x_q), self.layer.weight.flatten(1), self.bias)
        return (output - F.linear(x, self.weight, self.bias)).square().sum(1).mean()


def dropped(x: Tensor, x_q: Tensor, drop: float, source: RandomSource) -> Tensor:
    """Return x_q with a random share `drop` of its elements taken from x (QDrop)."""
    if not drop:
        return x_q
    return torch.where(source.mask(x, drop), x, x_q)


class BlockObjective:
    """Weighted squared output error of a block, plus what the model's predictions and the inner layers say.

    Args:
        block: with its trained weights in place.
        reference: the same block of the float model.
        calls: its calibration calls.
        weights: of the squared errors, one tensor like the output per call, in main memory; or None.
        global_term: (call index, output) -> divergence of the model's predictions, or None.
    """

    def __init__(
        self,
        block: nn.Module,
        reference: nn.Module,
        calls: Sequence[Call],
        options: ReconstructionOptions,
        weights: Sequence[Tensor] | None = None,
        global_term: Callable[[int, Tensor], Tensor] | None = None,
    ) -> None:
        self.block, self.reference, self.calls, self.options = block, reference, calls, options
        self.weights, self.global_term = weights, global_term
        self._units: dict[str, float] = {}

    def sample(self, source: RandomSource, iteration: int) -> Tensor:
        index = source.position(len(self.calls))
        call = self.calls[index].on_device()
        x = dropped(call.x, call.x_q, self.options.drop, source)
        return self._combine(self._terms(index, call, x, iteration % self.options.global_every == 0))

    def total(self) -> Tensor:
        calls = enumerate(call.on_device() for call in self.calls)
        values = [self._terms(index, call, call.x_q, True) for index, call in calls]
        return self._combine({name: sum(v[name] for v in values) / len(values) for name in values[0]})

    def _terms(self, index: int, call: Call, x: Tensor, with_global: bool) -> dict[str, Tensor]:
        options, terms = self.options, {}
        with layer_outputs(self.block, options.local_weight > 0) as inner:
            output = call.run(self.block, x)
        error = (output - call.output).square()
        if self.weights is not None:
            error = error * from_main_memory(self.weights[index], call.device)
        terms['block'] = error.sum(-1).mean()
        if self.global_term is not None and with_global:
            terms['global'] = self.global_term(index, output).to(output.device)
        if options.local_weight > 0:
            with torch.no_grad(), layer_outputs(self.reference, True) as wanted:
                call.run(self.reference, call.x)
            terms['local'] = sum(softmax_divergence(inner[name], wanted[name]) for name in inner)
        return terms

    def _combine(self, terms: dict[str, Tensor]) -> Tensor:
        """Sum the terms; relative ones in units of their first value over all calls."""
        options = self.options
        factors = {'block': 1.0, 'global': options.global_weight, 'local': options.local_weight}
        if options.relative_terms:
            for name, value in terms.items():
                if name not in self._units:
                    self._units[name] = max(float(value.detach()), 1e-12)
                factors[name] /= self._units[name]
        return sum(factors[name] * value for name, value in terms.items())


@contextmanager
def layer_outputs(block: nn.Module, wanted: bool) -> Iterator[dict[str, Tensor]]:
    """Collect the outputs of the quantized layers inside a block while it runs, concatenated over calls."""
    parts: dict[str, list[Tensor]] = {}
    layers = {name: m for name, m in block.named_modules() if isinstance(m, QuantLayer)} if wanted else {}

    def observer(name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        return lambda _module, _args, output: parts.setdefault(name, []).append(output)

    handles = [layer.register_forward_hook(observer(name)) for name, layer in layers.items()]
    found: dict[str, Tensor] = {}
    try:
        yield found
        found.update({name: torch.cat(tensors) for name, tensors in parts.items()})
    finally:
        for handle in handles:
            handle.remove()


def softmax_divergence(output: Tensor, wanted: Tensor) -> Tensor:
    """Return KL(softmax(wanted) || softmax(output)) over the last dimension (images: channels), mean over the rest."""
    dim = 1 if output.dim() == 4 else -1
    log_p, log_q = wanted.log_softmax(dim), output.log_softmax(dim)
    return (log_p.exp() * (log_p - log_q)).sum(dim).mean()
