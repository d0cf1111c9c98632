"""Where a model is, and whether its calibration data get there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .task import CalibrationTask

NOT_SUPPORTED = {
    'meta': 'holds no values: load the weights first',
    'mps': 'has no float64, in which the solutions are computed: move the model to the CPU',
}


def devices_of(model: nn.Module) -> list[torch.device]:
    """Return the devices of a model's parameters and buffers, each once, in module order."""
    modules = model.modules()
    tensors = (t for module in modules for t in [*module.parameters(recurse=False), *module.buffers(recurse=False)])
    return list(dict.fromkeys(tensor.device for tensor in tensors))


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """Return the GPUs that a model is on."""
    return [device for device in devices_of(model) if device.type == 'cuda']


def check_devices(model: nn.Module, task: CalibrationTask) -> None:
    """Find out whether calibration data and model come together, before the model is touched.

    The first image is run until it reaches the first layer: about the price of preparing the image. A model that is
    spread over devices is fine if its forward moves what it passes on.

    Raises:
        ValueError: the model is on a device that cannot calibrate it, or the layer gets an input from another device
            than its weights are on and does not bring it over.
    """
    for device in devices_of(model):
        if device.type in NOT_SUPPORTED:
            raise ValueError(f'the model is on {device}, which {NOT_SUPPORTED[device.type]}')
    mismatches: list[str] = []
    unchanged = torch.random.fork_rng(devices=cuda_devices(model))
    try:
        with unchanged, torch.no_grad(), _stopped_at_first_layer(model, mismatches):
            task.forward(model, 0)
    except _Reached:
        return
    except RuntimeError as error:
        if not mismatches:
            raise
        raise ValueError(mismatches[0]) from error


class _Reached(Exception):
    """Ends a forward whose rest is not needed."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


@contextmanager
def _stopped_at_first_layer(model: nn.Module, mismatches: list[str]) -> Iterator[None]:
    """End the forward at the first layer with parameters of its own.

    One whose input is elsewhere is noted, and runs: it may bring its input over itself, and ends the forward then.
    """

    def before(name: str) -> Callable[..., None]:
        def check(layer: nn.Module, args: tuple, keywords: dict[str, Any]) -> None:
            here = next(p.device for p in layer.parameters(recurse=False))
            elsewhere = {t.device for t in _tensors([args, keywords])} - {here}
            if not elsewhere:
                raise _Reached
            there = ', '.join(map(str, elsewhere))
            mismatches.append(
                f'{name or type(layer).__name__} is on {here}, its calibration input on {there}: move the calibration '
                f'data to {here}, or the model to {there}, before quantizing'
            )

        return check

    def after(_layer: nn.Module, _args: tuple, _output: Any) -> None:
        raise _Reached

    handles = []
    for name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
            handles.append(module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
