"""Windows of a feature map, as in Swin: padding, cutting, putting together, and which image region each token is of.

Feature maps are (images, height, width, channels); a window and a shift are (down, across).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


class PaddedWindows(nn.Module):
    """A module that cuts a feature map into windows, and fills what reaches beyond it.

    Args:
        channels: of the feature map.
        like: a tensor of the dtype and on the device of the module.

    Attributes:
        pad_value: (channels,), the value that stands for zero after reparameterization (zero before it).
    """

    pad_value: Tensor

    def __init__(self, channels: int, like: Tensor) -> None:
        super().__init__()
        self.register_buffer('pad_value', like.new_zeros(channels))


def pad_to_windows(x: Tensor, window: Pair, value: Tensor) -> Tensor:
    """Pad a feature map below and on the right to whole windows with `value`, (channels,)."""
    images, height, width, _ = x.shape
    below, right = -height % window[0], -width % window[1]
    value = value.to(x.dtype)
    if torch.compiler.is_compiling():  # a graph has no branches, so that one serves sizes that pad and others
        row, column = (torch.arange(size, device=x.device) for size in (height + below, width + right))
        is_inside = (row < height)[:, None, None] & (column < width)[:, None]
        return torch.where(is_inside, F.pad(x, (0, 0, 0, right, 0, below)), value)
    if not (below or right):
        return x
    padded = value.repeat(images, height + below, width + right, 1)
    padded[:, :height, :width] = x
    return padded


def partition(x: Tensor, window: Pair) -> Tensor:
    """Cut a map of whole windows: (images, H, W, C) -> (images * windows, tokens, C)."""
    images, height, width, channels = x.shape
    down, across = window
    grid = x.view(images, height // down, down, width // across, across, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, down * across, channels)


def merge(windows: Tensor, window: Pair, shape: torch.Size) -> Tensor:
    """Undo `partition`: (images * windows, tokens, C) -> `shape`, (images, H, W, C)."""
    images, height, width, channels = shape
    down, across = window
    grid = windows.view(images, height // down, width // across, down, across, channels)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(images, height, width, channels)


def region_numbers(height: int, width: int, window: Pair, shift: Pair, device: torch.device) -> Tensor:
    """Return, (windows, tokens), which image region every token of a map of whole windows comes from after its shift.

    The last windows of each row and column join what was on opposite sides of the image.
    """
    down, across = (
        _bands(size, side, step, device) for size, side, step in zip((height, width), window, shift, strict=True)
    )
    return partition((3 * down[:, None] + across)[None, :, :, None], window).flatten(1)


def _bands(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - shift).long()
