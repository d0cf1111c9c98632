"""The same rows of a layer's input in the float model and in the one quantized so far."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...nn.layers import QuantConv2d, QuantLayer

ELEMENTS_PER_LAYER = 2**24  # at most this many input values of a layer are kept
VARIANCE_FLOOR = 0.02  # of the mean variance


@dataclass
class Rows:
    """Rows of all images.

    Attributes:
        x: (rows, in), float model.
        x_q: (rows, in), quantized model, before the layer's own quantizer.
        stream_error: (rows, out), float minus quantized, of the stream that the output is added to; or None.
        weights: (rows,), or None.
        images: (rows,), which image, or group of images, a row is of.
    """

    x: Tensor
    x_q: Tensor
    stream_error: Tensor | None
    weights: Tensor | None
    images: Tensor


def joined(parts: list[Rows]) -> Rows:
    """Return the rows of several images together; empties the list, so that they are not there twice."""
    fields = {}
    for name in ('x', 'x_q', 'stream_error', 'weights', 'images'):
        values = [getattr(part, name) for part in parts]
        fields[name] = None if any(v is None for v in values) else torch.cat(values)
    parts.clear()
    return Rows(**fields)


def row_count(layer: QuantLayer, x: Tensor) -> int:
    """Return how many rows one input of a layer is."""
    if not isinstance(layer, QuantConv2d):
        return x.numel() // max(x.shape[-1], 1)
    sides = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            x.shape[2:], layer.padding, layer.dilation, layer.kernel_size, layer.stride, strict=True
        )
    ]
    return len(x) * sides[0] * sides[1]


def choose_rows(total: int, limit: int, seed: int) -> Tensor:
    """Return which of `total` rows are kept, in order: all, or `limit` of them at random, by the seed."""
    if total <= limit:
        return torch.arange(total)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:limit].sort().values


def pick_rows(layer: QuantLayer, inputs: Sequence[Tensor], chosen: Tensor) -> Tensor:
    """Return the chosen rows of several inputs of a layer, counted through all of them, (rows, in)."""
    parts, start = [], 0
    for x in inputs:
        for chunk in layer.rows(x):
            inside = chosen[(chosen >= start) & (chosen < start + len(chunk))] - start
            if len(inside):
                parts.append(chunk[inside.to(chunk.device)])
            start += len(chunk)
    columns = layer.weight_matrix().shape[1]
    return torch.cat(parts) if parts else layer.weight.new_zeros(0, columns)


def rows_per_image(layer: QuantLayer, limit: int, images: int) -> int:
    """Return how many rows of every image are kept."""
    columns = layer.weight_matrix().shape[1]
    return max(1, min(limit, ELEMENTS_PER_LAYER // columns) // max(images, 1))


def relevance_weights(relevance: Tensor | None, total: int) -> Tensor | None:
    """Return what errors of `total` rows count, (total,), each entry of (n,) for equally many; None if that fails."""
    if relevance is None or (total and (not len(relevance) or total % len(relevance))):
        return None
    return relevance.repeat_interleave(total // len(relevance)) if total else relevance.new_zeros(0)


def token_weights(stream: Tensor) -> Tensor:
    """Return what errors of the tokens (..., channels) count, (...,): 1 / variance, by which the next norm divides."""
    variance = stream.var(-1, correction=0)
    return 1 / (variance + VARIANCE_FLOOR * variance.mean() + 1e-30)
