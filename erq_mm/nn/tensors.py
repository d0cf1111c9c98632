"""Tensors as those see them who watch a forward from below: in nested arguments, and by their memory."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor


def storage_key(tensor: Tensor) -> int | None:
    """Return what tells the memory of a tensor from that of others while it lives; None for tensors without one."""
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors have no storage
        return None


def nested_tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested lists, tuples and dicts."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from nested_tensors(list(values.values()))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from nested_tensors(value)
