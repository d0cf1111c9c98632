"""What units are trained on: calls of a block or rows of a layer, of the float model and the one quantized so far."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...core.reservoir import Reservoir
from ...nn.layers import QuantLayer
from ..precision import full_precision
from ..task import CalibrationTask, FunctionTask
from .main_memory import from_main_memory, in_main_memory

ELEMENTS_PER_LAYER = 2**25  # at most this many input values of a layer are kept
CONV_ROWS = 4096  # evenly spread im2col rows taken of one call of a convolution


@dataclass
class Call:
    """One call of a block. Its tensors lie in main memory: those of 256 images do not fit on a GPU.

    Attributes:
        image: index of the calibration image.
        x, x_q: first argument in the float model and in the quantized model so far.
        others: the other positional arguments; keywords: the named ones.
        output: of the float model; of a tuple its first entry.
        device: where the block was called.
    """

    image: int
    x: Tensor
    others: tuple[Any, ...]
    keywords: dict[str, Any]
    output: Tensor
    x_q: Tensor
    device: torch.device

    def on_device(self) -> 'Call':
        """Return the call with its tensors where the block was called."""
        x, x_q, output = (from_main_memory(t, self.device) for t in (self.x, self.x_q, self.output))
        return replace(self, x=x, x_q=x_q, output=output)

    def run(self, block: nn.Module, x: Tensor) -> Tensor:
        """Return the block's output on `x` in the place of the first argument."""
        return first_tensor(block(x, *self.others, **self.keywords))


def first_tensor(output: Any) -> Tensor:
    """Return a module's output, or its first entry if it is a tuple."""
    return output[0] if isinstance(output, (tuple, list)) else output


def capture_calls(
    model: nn.Module, reference: nn.Module, name: str, task: CalibrationTask, images: Sequence[int], quantized: bool
) -> list[Call]:
    """Return the calls of block `name`.

    Args:
        model: quantized up to the block.
        reference: the float model.
        quantized: take `x_q` from `model`; False repeats the float inputs.
    """
    calls = _calls(reference, name, task, images)
    if not quantized:
        return calls
    again = _calls(model, name, task, images, with_outputs=False)
    return [replace(call, x_q=repeated.x) for call, repeated in zip(calls, again, strict=True)]


class _Captured(Exception):
    """Ends a forward whose rest is not needed."""


def _calls(
    model: nn.Module, name: str, task: CalibrationTask, images: Sequence[int], with_outputs: bool = True
) -> list[Call]:
    """Return the calls of block `name`, with `x` for `x_q`, and for `output`, too, where outputs are not asked for."""
    found: list[Call] = []
    once = not isinstance(task, FunctionTask)  # one call an image, as every block of a backbone gets

    def record(_module: nn.Module, args: tuple, keywords: dict, output: Any) -> None:
        x = in_main_memory(args[0])
        kept = in_main_memory(first_tensor(output)) if with_outputs else x
        found.append(Call(image, x, args[1:], keywords, kept, x, args[0].device))
        if once:
            raise _Captured

    handle = model.get_submodule(name).register_forward_hook(record, with_kwargs=True)
    try:
        with torch.no_grad(), full_precision():
            for image in images:
                try:
                    task.forward(model, image)
                except _Captured:
                    continue
    finally:
        handle.remove()
    return found


@dataclass
class Rows:
    """Input rows of a layer, (rows, in), in the float model and, at the same positions, in the quantized one."""

    x: Tensor
    x_q: Tensor


class RowCapture:
    """Input rows of the layers of one part of the model, of the float model all at once.

    The quantized model's rows are taken layer by layer (`rows`), because those of a layer depend on how the layers
    before it have been quantized.

    Args:
        reference: the float model.
        seeds: layer name -> seed of its sample.
        capacity: up to so many rows of every layer, chosen at random over all calls.

    Attributes:
        order: names of the layers that were called, in the order of their first calls.
    """

    def __init__(
        self,
        reference: nn.Module,
        seeds: Mapping[str, int],
        task: CalibrationTask,
        images: Sequence[int],
        capacity: int,
    ) -> None:
        self.task, self.images, self.seeds, self.capacity = task, images, seeds, capacity
        self.order: list[str] = []
        self._samples = self._make_samples(reference, list(seeds))
        with _watched(self._samples, self.order), torch.no_grad(), full_precision():
            for image in images:
                task.forward(reference, image)
                for sample in self._samples.values():
                    sample.end_image()

    def _make_samples(self, model: nn.Module, names: Sequence[str]) -> dict[str, '_RowSample']:
        return {n: _RowSample(model.get_submodule(n), self.capacity, self.seeds[n]) for n in names}

    def rows(self, name: str, model: nn.Module | None) -> Rows | None:
        """Return the rows of layer `name`, `x_q` as `model` is quantized now, or repeating `x` for None.

        None if the layer was never called.
        """
        reference = self._samples[name]
        if not reference.reservoir.count:
            return None
        return Rows(reference.rows(), reference.rows() if model is None else self._quantized_rows(name, model))

    def _quantized_rows(self, name: str, model: nn.Module) -> Tensor:
        sample = self._make_samples(model, [name])[name]
        with _watched({name: sample}, []), torch.no_grad(), full_precision():
            for image, calls in zip(self.images, self._samples[name].calls, strict=True):
                sample.last_call = calls
                if not calls:
                    continue
                try:
                    self.task.forward(model, image)
                except _Captured:
                    sample.end_image()
        return sample.rows()


@contextmanager
def _watched(samples: Mapping[str, '_RowSample'], order: list[str]) -> Iterator[None]:
    """Fill the samples while the block runs, and append every name to `order` at its first call."""

    def observer(name: str) -> Callable[[nn.Module, tuple], None]:
        def see(_module: nn.Module, args: tuple) -> None:
            if name not in order:
                order.append(name)
            samples[name].add(args[0].detach())

        return see

    handles = [sample.layer.register_forward_pre_hook(observer(name)) for name, sample in samples.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _RowSample:
    """A random sample of a layer's input rows.

    Attributes:
        calls: how often the layer was called, per image.
        last_call: number of the call in an image after which its forward is ended, or None.
    """

    def __init__(self, layer: QuantLayer, capacity: int, seed: int) -> None:
        self.layer = layer
        columns = layer.weight_matrix().shape[1]
        self.reservoir = Reservoir(max(1, min(capacity, ELEMENTS_PER_LAYER // columns)), seed)
        self.kept = layer.weight.new_zeros(self.reservoir.capacity, columns)
        self.calls: list[int] = []
        self.last_call: int | None = None
        self._calls = 0

    def add(self, x: Tensor) -> None:
        rows = torch.cat(list(self.layer.rows(x)) or [self.kept[:0]])
        if x.dim() == 4:
            rows = rows[:: max(1, -(-len(rows) // CONV_ROWS))]
        chosen, slots = self.reservoir.choose(len(rows), rows.device)
        self.kept[slots] = rows[chosen]
        self._calls += 1
        if self._calls == self.last_call:
            raise _Captured

    def end_image(self) -> None:
        self.calls.append(self._calls)
        self._calls = 0

    def rows(self) -> Tensor:
        return self.kept[: self.reservoir.count]
