"""Random samples of what quantized sites see: inputs of all calls and images, and gradients of the loss beside them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.reservoir import Reservoir
from ..nn.layers import QuantConv2d
from .precision import full_precision
from .progress import track
from .state import Calibration, SiteState, differentiable


@dataclass
class SiteSamples:
    """A sample of one site of the float model.

    Attributes:
        inputs: of a layer (x,), rows of `weight_matrix`'s input, (rows, in), im2col rows of a convolution; of a product
            of activations (left, right), (pairs, n, k) and (pairs, k, m), where one head of one window is a pair.
        gradients: of the loss with respect to the site's output, (rows, out) or (pairs, n, m), zero where the loss does
            not depend on it; None if they were not asked for. Each is that of its own image's loss.

    A site that was never called has zero rows or pairs.
    """

    inputs: tuple[Tensor, ...]
    gradients: Tensor | None


def collect_samples(
    calibration: Calibration,
    states: Sequence[SiteState],
    rows: int = 256,
    pairs: int = 64,
    with_gradients: bool = False,
) -> dict[str, SiteSamples]:
    """Return uniform random samples over all calls and images, by site name; memory does not grow with the images.

    Args:
        states: the sites; their quantizers must be off.
        rows, pairs: the most that is kept of a layer, and of a product of activations.
        with_gradients: run `task.loss` instead of the plain forwards. The samples are then of the forwards behind the
            loss, which may send other rows through the heads of a detector.

    Raises:
        ValueError: `rows` or `pairs` is not a positive integer.
        FloatingPointError: the loss of an image is NaN or infinite.
    """
    for name, value in (('rows', rows), ('pairs', pairs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name} must be a positive integer, got {value!r}')
    samplers = {
        state.name: _Sampler(state, rows if state.has_weight else pairs, calibration.seed + index, with_gradients)
        for index, state in enumerate(states)
    }
    with _attached(list(samplers.values())):
        if with_gradients:
            _run_backward(calibration)
        else:
            calibration.run()
    return {name: sampler.samples() for name, sampler in samplers.items()}


def _run_backward(calibration: Calibration) -> None:
    model, task = calibration.model, calibration.task
    model.eval()
    with full_precision(), differentiable(model):
        for index in track(calibration.progress, range(len(task)), 'gradients of calibration images'):
            loss = task.loss(model, index)
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(f'the loss of calibration image {index} is {loss.item()}')
            if loss.requires_grad:  # otherwise it depends on no site
                loss.backward()


@contextmanager
def _attached(samplers: list['_Sampler']) -> Iterator[None]:
    handles = [sampler.state.module.register_forward_hook(sampler.see) for sampler in samplers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Sampler:
    """The sample of one site while it grows.

    Slots of the reservoir are overwritten by later calls, also by those of the same image, before the gradients of the
    earlier ones arrive: `owner` remembers which call a slot belongs to.
    """

    def __init__(self, state: SiteState, capacity: int, seed: int, with_gradients: bool) -> None:
        self.state, self.with_gradients = state, with_gradients
        self.reservoir = Reservoir(capacity, seed)
        self.calls = 0
        self.kept: list[Tensor] = []
        self.gradients: Tensor | None = None
        self.owner: Tensor | None = None

    def see(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Sample one call; as a forward hook."""
        self.calls += 1
        rows = _Rows(module, args, output)
        chosen, slots = self.reservoir.choose(rows.count, output.device)
        with torch.no_grad():
            self._keep(rows, chosen, slots)
        if not self.with_gradients:
            return None
        if not output.requires_grad:  # nothing before it does; a copy, as what comes next may work in place
            output = output.detach().requires_grad_().clone()
        if len(chosen):
            output.register_hook(_gradient_hook(self, rows, chosen, slots))
        return output

    def samples(self) -> SiteSamples:
        """Return what has been kept."""
        if not self.kept:
            return self._empty()
        count = self.reservoir.count
        gradients = None if self.gradients is None else self.gradients[:count]
        return SiteSamples(tuple(kept[:count] for kept in self.kept), gradients)

    def _keep(self, rows: '_Rows', chosen: Tensor, slots: Tensor) -> None:
        inputs = rows.inputs(chosen)
        capacity = self.reservoir.capacity
        if not self.kept:
            self.kept = [part.new_zeros(capacity, *part.shape[1:]) for part in inputs]
            if self.with_gradients:
                self.gradients = inputs[0].new_zeros(capacity, *rows.output_shape)
                self.owner = torch.zeros(capacity, dtype=torch.long, device=inputs[0].device)
        for kept, part in zip(self.kept, inputs, strict=True):
            kept[slots] = part
        if self.with_gradients:
            self.gradients[slots] = 0
            self.owner[slots] = self.calls

    def receive(self, call: int, gradients: Tensor, slots: Tensor) -> None:
        """Store the gradients of one call, where its rows have not been replaced since."""
        current = self.owner[slots] == call
        self.gradients[slots[current]] = gradients[current]

    def _empty(self) -> SiteSamples:
        if not self.state.has_weight:
            nothing = next(self.state.module.buffers()).new_zeros(0, 0, 0)
            return SiteSamples((nothing, nothing), nothing if self.with_gradients else None)
        weight = self.state.layer.weight_matrix()
        gradients = weight.new_zeros(0, len(weight)) if self.with_gradients else None
        return SiteSamples((weight.new_zeros(0, weight.shape[1]),), gradients)


def _gradient_hook(sampler: _Sampler, rows: '_Rows', chosen: Tensor, slots: Tensor):
    call = sampler.calls
    rows.args = ()  # the hook must not keep the inputs of all calls alive

    def receive(gradient: Tensor) -> None:
        sampler.receive(call, rows.outputs(gradient.detach(), chosen), slots)

    return receive


class _Rows:
    """The rows, or pairs, of one call of a site: how many there are, and those at chosen positions."""

    def __init__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        self.module, self.args = module, args
        self.is_conv, self.is_product = isinstance(module, QuantConv2d), len(args) == 2
        if self.is_conv:
            self.count, self.output_shape = output[:, 0].numel(), output.shape[1:2]
        elif self.is_product:
            self.count, self.output_shape = output[..., 0, 0].numel(), output.shape[-2:]
        else:
            self.count, self.output_shape = output[..., 0].numel(), output.shape[-1:]
        self.grid = output.shape[2:]

    def inputs(self, chosen: Tensor) -> list[Tensor]:
        """Return the inputs at positions `chosen`, one tensor per operand."""
        if self.is_conv:
            return [self._patches(self.args[0].detach(), chosen)]
        return [self._select(operand.detach(), chosen) for operand in self.args]

    def outputs(self, like_output: Tensor, chosen: Tensor) -> Tensor:
        """Return a tensor of the output's shape at positions `chosen`, (chosen, out) or (chosen, n, m)."""
        if self.is_conv:
            image, line, column = self._positions(chosen)
            return like_output[image, :, line, column]
        return self._select(like_output, chosen)

    def _select(self, x: Tensor, chosen: Tensor) -> Tensor:
        return x.flatten(0, -3 if self.is_product else -2)[chosen] if x.dim() > 1 else x[None][chosen]

    def _positions(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self.grid
        return chosen // (height * width), chosen // width % height, chosen % width

    def _patches(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Return im2col rows, (chosen, in_channels * kh * kw), without forming the others."""
        layer = self.module
        (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
        x = F.pad(x, (layer.padding[1], layer.padding[1], layer.padding[0], layer.padding[0]))
        image, line, column = self._positions(chosen)
        lines = line[:, None] * sh + torch.arange(kh, device=x.device) * dh
        columns = column[:, None] * sw + torch.arange(kw, device=x.device) * dw
        patches = x[image[:, None, None], :, lines[:, :, None], columns[:, None, :]]  # (chosen, kh, kw, channels)
        return patches.permute(0, 3, 1, 2).flatten(1)
