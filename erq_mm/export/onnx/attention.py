"""Attention as ONNX, whoever's: three linear layers for queries, keys and values, two float products and a softmax."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .layers import LayerWriter

PRODUCTS = ('query_key', 'probability_value')
ROWS, COLUMNS = [0, 2, 1, 3], [0, 2, 3, 1]  # (batch, tokens, heads, channels) -> queries and values; keys


class AttentionWriter:
    """Writes softmax(s q k^T + ...) v on values whose last dimension is channels.

    Args:
        layers: writes its layers.
    """

    def __init__(self, layers: LayerWriter) -> None:
        self.layers, self.graph = layers, layers.graph

    def heads(
        self, qkv: nn.Module, codes: str, tokens: int, heads: int, factors: Sequence[float] = (1.0, 1.0, 1.0)
    ) -> list[str]:
        """Return queries, keys and values of a joint layer, each (batch, tokens, heads, channels per head).

        Args:
            codes: of the layer's input (the input itself, if it runs in float).
            factors: by which each is multiplied, without an operator.
        """
        width = qkv.out_features // 3
        parts = []
        for index, factor in enumerate(factors):
            rows = slice(index * width, (index + 1) * width)  # three layers, so that engines fuse the attention
            part = self.layers.linear_of_codes(qkv, codes, rows, factor)
            parts.append(self.graph.add('Reshape', part, self.graph.constant([-1, tokens, heads, width // heads])))
        return parts

    def logits(self, query: str, key: str) -> str:
        """Return q k^T, (batch, heads, tokens, tokens), of what `heads` returns."""
        query, key = (self.graph.add('Transpose', x, perm=p) for x, p in ((query, ROWS), (key, COLUMNS)))
        return self.graph.add('MatMul', query, key)

    def mixed(self, logits: str, value: str, shape: Sequence[int]) -> str:
        """Return softmax(logits) v, the heads side by side, in a shape that ends in all their channels."""
        value = self.graph.add('Transpose', value, perm=ROWS)
        mixed = self.graph.add('MatMul', self.graph.add('Softmax', logits, axis=-1), value)
        mixed = self.graph.add('Transpose', mixed, perm=ROWS)
        return self.graph.add('Reshape', mixed, self.graph.constant(list(shape), 'shape'))

    def note_products(self, attention: nn.Module) -> None:
        """Note which products of an attention were quantized: in graphs they are float."""
        for name in PRODUCTS:
            product = getattr(attention, name, None)
            if product is not None and (product.left_quantizer.is_active or product.right_quantizer.is_active):
                self.layers.account.notes.append(
                    f'{self.layers.names[product]}: product of attention, float in the graph'
                )


def position_bias(attention: nn.Module) -> NDArray:
    """Return the relative position bias of window attention, mmdet's or timm's, (heads, tokens, tokens)."""
    tokens = attention.window_size[0] * attention.window_size[1]
    index = attention.relative_position_index.reshape(-1)
    table = attention.relative_position_bias_table.detach()[index].view(tokens, tokens, -1)
    return np.ascontiguousarray(table.permute(2, 0, 1).cpu().numpy())
