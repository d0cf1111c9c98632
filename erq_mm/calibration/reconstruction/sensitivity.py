"""How much the model's loss or predictions care about a block's output: Fisher, perturbation Hessian, divergence."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..task import CalibrationTask, Predictions
from .capture import Call, first_tensor
from .main_memory import from_main_memory, in_main_memory


def fisher_weights(model: nn.Module, name: str, task: CalibrationTask, calls: Sequence[Call]) -> list[Tensor] | None:
    """Return the squared gradients of the loss with respect to the block's output, in main memory (BRECQ).

    Their mean over all calls is 1. None if no gradient reaches the block.
    """
    squares, total, count = [], 0.0, 0
    for call in calls:
        with _output_as_leaf(model, name) as leaves:
            loss = task.loss(model, call.image)
        square = _gradient(loss, leaves[0]).square()
        squares.append(in_main_memory(square))
        total, count = total + float(square.sum()), count + square.numel()  # a GPU's copy is complete after this
    return [square.div_(total / count) for square in squares] if total > 0 else None


def perturbation_weights(
    reference: nn.Module, name: str, task: CalibrationTask, calls: Sequence[Call], step: float
) -> list[Tensor] | None:
    """Return |h| of the average perturbation Hessian, mean 1 per call (APHQ-ViT, detection code), in main memory.

    h = (g(O + D) - g(O - D)) / (2 D), g the gradient of the divergence of the predictions from the float model's, D
    equal in all elements: `step` times the root mean square of the output O. None if nothing depends on the block.
    """
    weights = []
    for call in calls:
        output = from_main_memory(call.output, call.device)
        shift = step * float(output.square().mean().sqrt())
        wanted = _predictions(reference, task, call.image)
        gradients = []
        for sign in (1, -1):
            moved = (output + sign * shift).requires_grad_()
            divergence = divergence_behind(reference, name, task, call.image, moved, wanted)
            gradients.append(_gradient(divergence, moved))
        curvature = (gradients[0] - gradients[1]).abs()
        mean = curvature.mean()
        if not float(mean) > 0:
            return None
        weights.append(in_main_memory(curvature / mean))
    return weights


def global_term(
    reference: nn.Module, name: str, task: CalibrationTask, calls: Sequence[Call]
) -> Callable[[int, Tensor], Tensor]:
    """Return (call index, block output) -> divergence of the float model's predictions behind that output."""
    wanted = [_predictions(reference, task, call.image) for call in calls]

    def divergence(index: int, output: Tensor) -> Tensor:
        return divergence_behind(reference, name, task, calls[index].image, output, wanted[index])

    return divergence


def divergence_behind(
    reference: nn.Module, name: str, task: CalibrationTask, image: int, output: Tensor, wanted: Predictions
) -> Tensor:
    """Return the divergence of the float model's predictions when block `name` gives `output`."""
    handle = reference.get_submodule(name).register_forward_hook(
        lambda _module, _args, old: (output, *old[1:]) if isinstance(old, (tuple, list)) else output
    )
    try:
        return task.divergence(task.predict(reference, image), wanted)
    finally:
        handle.remove()


def _predictions(reference: nn.Module, task: CalibrationTask, image: int) -> Predictions:
    with torch.no_grad():
        return tuple(p.detach() for p in task.predict(reference, image))


@contextmanager
def _output_as_leaf(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Cut the graph at the block's output while the block runs; the list gets that output."""
    leaves: list[Tensor] = []

    def cut(_module: nn.Module, _args: tuple, output: Any) -> Any:
        leaf = first_tensor(output).detach().requires_grad_()
        leaves.append(leaf)
        return (leaf, *output[1:]) if isinstance(output, (tuple, list)) else leaf

    handle = model.get_submodule(name).register_forward_hook(cut)
    try:
        yield leaves
    finally:
        handle.remove()


def _gradient(value: Tensor, output: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(output)
    (gradient,) = torch.autograd.grad(value, output, allow_unused=True)
    return torch.zeros_like(output) if gradient is None else gradient
