"""Where a tensor is said to be: an attribute of its storage, so that views and in-place results share it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CPU = torch.device('cpu')
KEY, PINNED = '_logical_device', '_logically_pinned'


def device_of(tensor: Tensor) -> torch.device:
    """Return the logical device."""
    try:
        return getattr(tensor.untyped_storage(), KEY, CPU)
    except (NotImplementedError, RuntimeError):  # without a storage: sparse tensors, wrappers of functorch
        return CPU


def is_cuda(tensor: Tensor) -> bool:
    return device_of(tensor).type == 'cuda'


def put(tensor: Tensor, device: torch.device) -> None:
    """Say that a tensor is on a device."""
    marks = tensor.untyped_storage().__dict__
    if device.type == 'cpu':
        marks.pop(KEY, None)
    else:
        marks[KEY] = device


def has_place(tensor: Tensor) -> bool:
    """Whether its storage has been put on a device."""
    return KEY in tensor.untyped_storage().__dict__


def as_device(device: Any) -> torch.device | None:
    """Return 'cuda' as cuda:0, an index as that GPU, None as it is."""
    if device is None:
        return None
    if isinstance(device, int) and not isinstance(device, bool):
        return torch.device('cuda', device)
    device = torch.device(device)
    return torch.device('cuda', device.index or 0) if device.type == 'cuda' else device


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors of nested lists, tuples and dicts."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)) and value:
            found += tensors_in(*value)
        elif isinstance(value, dict) and value:
            found += tensors_in(*value.values())
    return found


def describe(tensors: Any) -> str:
    return ', '.join(f'{device_of(t)}{tuple(t.shape)}' for t in tensors)


def move(out: Any, device: torch.device, inputs: list[Tensor], transferred: Callable[[Tensor], None]) -> Any:
    """Return `out` on a device; what shares its storage with `inputs` is copied, as a transfer would."""
    if isinstance(out, (tuple, list)):
        return type(out)(move(item, device, inputs, transferred) for item in out)
    if not isinstance(out, Tensor) or device_of(out) == device:
        return out
    if inputs:
        transferred(out)
    if any(t.untyped_storage()._cdata == out.untyped_storage()._cdata for t in inputs):
        return _Transfer.apply(out, device)
    put(out, device)
    return out


class _Transfer(torch.autograd.Function):
    """A copy on another device, whose gradient goes back to the first one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, device: torch.device) -> Tensor:
        ctx.source = device_of(x)
        copy = x.clone()
        put(copy, device)
        return copy

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Transfer.apply(gradient, ctx.source), None
