"""Altered copies of a calibration image: other sizes and appearances, for who has one image only."""

from collections.abc import Sequence
from itertools import islice, permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (0.75, 1.25)
APPEARANCES = ('brightness', 'plain', 'contrast', 'inverted', 'gamma')
ORDERS = 24  # at most so many orders of the channels are drawn from


def altered_copies(image: dict[str, Any], count: int, seed: int, with_scales: bool = True) -> list[dict[str, Any]]:
    """Return copies of a packed image: of other sizes first, then of other colours and random appearance.

    The channels of the latter are in another order, each of the five of three channels before one comes again: one
    image shows few colours, and much of a network answers to these. Every other one is mirrored.

    Args:
        image: `inputs`, (channels, height, width) uint8, and `data_samples`.
        count: how many.
        with_scales: whether the model takes images of another size.

    Images of other types than uint8 have no copies: what their values mean is not known.
    """
    if image['inputs'].dtype != torch.uint8:
        return []
    generator = torch.Generator().manual_seed(seed)
    scales: Sequence[float] = SCALES[:count] if with_scales else ()
    copies = [_scaled(image, scale) for scale in scales]
    orders = _other_orders(len(image['inputs']), generator)
    for index in range(count - len(copies)):
        kind = APPEARANCES[index % len(APPEARANCES)]
        pixels = _altered(image['inputs'][orders[index % len(orders)]].float(), kind, generator)
        if index % 2:
            pixels = pixels.flip(-1)
        copies.append(image | {'inputs': pixels.round().clamp(0, 255).byte(), 'data_samples': _sample(image)})
    return copies


def _other_orders(channels: int, generator: torch.Generator) -> list[list[int]]:
    """Return orders of channels other than their own, in random order; a single channel has its own alone."""
    orders = [list(order) for order in islice(permutations(range(channels)), ORDERS)]
    others = orders[1:] or orders
    return [others[place] for place in torch.randperm(len(others), generator=generator).tolist()]


def _sample(image: dict[str, Any]) -> Any:
    return image['data_samples'].clone()


def _scaled(image: dict[str, Any], scale: float) -> dict[str, Any]:
    height, width = (max(1, round(side * scale)) for side in image['inputs'].shape[-2:])
    pixels = F.interpolate(image['inputs'][None].float(), (height, width), mode='bilinear', antialias=True)[0]
    sample = _sample(image)
    changes: dict[str, Any] = {}
    for key in ('img_shape', 'pad_shape', 'batch_input_shape'):
        if key in sample.metainfo:
            changes[key] = (height, width)
    if 'scale_factor' in sample.metainfo:
        changes['scale_factor'] = tuple(factor * scale for factor in sample.metainfo['scale_factor'])
    sample.set_metainfo(changes)
    return image | {'inputs': pixels.round().clamp(0, 255).byte(), 'data_samples': sample}


def _altered(pixels: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Return pixels, 0..255, of another appearance."""
    strength = float(torch.rand((), generator=generator))
    if kind == 'plain':
        return pixels
    if kind == 'inverted':
        return 255 - pixels
    if kind == 'brightness':
        return pixels * (0.5 + strength)
    if kind == 'contrast':
        return (pixels - pixels.mean()) * (0.5 + strength) + pixels.mean()
    return 255 * (pixels / 255) ** (0.5 + 1.5 * strength)
