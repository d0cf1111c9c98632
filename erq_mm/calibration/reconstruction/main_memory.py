"""What a reconstruction trains on is kept in main memory; from and to a GPU it goes by pinned pages, without a wait."""

import torch
from torch import Tensor


def in_main_memory(tensor: Tensor) -> Tensor:
    """Return a copy in main memory, from a GPU in pinned pages.

    From a GPU the copy may still be under way: read it after a synchronization, or with `from_main_memory`.
    """
    tensor = tensor.detach()
    if tensor.device.type != 'cuda':
        return tensor.to('cpu', copy=True)
    return _pages_like(tensor).copy_(tensor, non_blocking=True)


def from_main_memory(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of `in_main_memory` on the device it came from."""
    return tensor.to(device, non_blocking=True)


def release_pinned_pages() -> None:
    """Give unused pinned pages back: torch would keep those of the first blocks, the largest, to the end."""
    release = getattr(getattr(torch, 'accelerator', None), 'empty_host_cache', None)  # older versions keep them
    if torch.cuda.is_initialized() and release is not None:
        release()


def _pages_like(tensor: Tensor) -> Tensor:
    try:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    except RuntimeError:  # more than this machine can pin: pageable memory is slower, and holds the same numbers
        return torch.empty(tensor.shape, dtype=tensor.dtype)
