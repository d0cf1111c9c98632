"""Multiply-accumulates of every product of a model, and the bit operations they become (ERQ, Table 10).

A product of w-bit with a-bit numbers counts w * a bit operations per multiply-accumulate.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.architectures import Part, part_of

FLOAT_BITS = 32
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def count_macs(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, int]:
    """Return multiply-accumulates per product, by the names quantization reports use, summed over all calls.

    Products of activations are those of self attention whose queries, keys and values come from one layer.

    Args:
        model: float.
        run: called with the model, runs the forward to be counted, without gradients.
    """
    macs: dict[str, int] = {}
    with _counting(model, macs), torch.no_grad():
        run(model)
    return macs


@contextmanager
def _counting(model: nn.Module, macs: dict[str, int]) -> Iterator[None]:
    def add(name: str, count: int) -> None:
        macs[name] = macs.get(name, 0) + count

    def count_layer(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: add(name, layer_macs(layer, inputs[0], output))

    def count_attention(name: str, attention: nn.Module, part: Part) -> Callable[..., None]:
        channels = attention.get_submodule(part.qkv).out_features // 3

        def count(_: nn.Module, inputs: tuple[Tensor, ...], __: Tensor) -> None:
            sequences, tokens = inputs[0].shape[:2]  # each head: sequences * tokens^2 * channels / heads
            for product in part.products:
                add(f'{name}.{product}' if name else product, sequences * tokens * tokens * channels)

        return count

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, LAYERS):
            handles.append(module.register_forward_hook(count_layer(name)))
            continue
        part = part_of(module)
        if part is not None and part.products and part.qkv:
            handles.append(module.register_forward_hook(count_attention(name, module, part)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_macs(layer: nn.Module, x: Tensor, output: Tensor) -> int:
    """Return the multiply-accumulates of one call, additions of the bias not counted.

    Every output of a Linear or Conv2d is a sum of products; every input of a ConvTranspose2d is spread by products.
    """
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    kernel = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):
        return x.numel() * layer.out_channels // layer.groups * kernel
    return output.numel() * layer.in_channels // layer.groups * kernel


def product_bits(layers: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Return name -> bits of both operands, from the `layers` of a quantization report.

    A matmul has activations on both sides; an input that stayed float has 32 bits.
    """
    bits = {}
    for layer in layers:
        a_bits = layer['a_bits'] or FLOAT_BITS
        bits[layer['name']] = (layer['w_bits'] or a_bits, a_bits)
    return bits


def bit_operations(macs: Mapping[str, int], bits: Mapping[str, tuple[int, int]]) -> int:
    """Return the sum of multiply-accumulates times the bits of both operands; products not in `bits` are float."""
    float_product = (FLOAT_BITS, FLOAT_BITS)
    return sum(count * math.prod(bits.get(name, float_product)) for name, count in macs.items())
