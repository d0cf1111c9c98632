"""timm's ViT and DeiT, float or quantized, as ONNX: any number of images of the size the network is built for."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...nn.architectures.base import IDENTITY
from ...nn.recognition import is_exactly
from ...nn.self_attention import QuantAttention
from .attention import AttentionWriter
from .layers import LayerWriter
from .supported import Unsupported, expect
from .timm_layers import NOTHING_IN_EVAL, TimmWriter

VIT = 'timm.models.vision_transformer.VisionTransformer'
DISTILLED = 'timm.models.deit.VisionTransformerDistilled'
BLOCK = 'timm.models.vision_transformer.Block'
ATTENTION = 'timm.layers.attention.Attention'


class VisionTransformerWriter(TimmWriter):
    """Writes a `VisionTransformer` or `VisionTransformerDistilled`."""

    types = (VIT, DISTILLED)

    def __init__(self, layers: LayerWriter) -> None:
        super().__init__(layers)
        self.attentions = AttentionWriter(layers)

    def network(self, vit: nn.Module, image: str) -> str:
        """Write everything from (images, 3, H, W) to (images, classes).

        Raises:
            Unsupported: the network has something that this writer does not know.
        """
        expect(vit.patch_drop, NOTHING_IN_EVAL)
        table = _positions(vit)
        prefix, tokens = vit.num_prefix_tokens, len(table)
        x = self.patches(vit.patch_embed, image)
        if prefix:  # rows of zeros to which the table adds the tokens: for any number of images
            x = self.graph.add('Pad', x, self.graph.constant([0, prefix, 0, 0, 0, 0]), mode='constant')
        x = self.graph.add('Add', x, self.graph.constant(table[None], 'positions'))
        x = self.norm(vit.norm_pre, x)
        for block in vit.blocks:
            x = self._block(block, x, tokens)
        return self._head(vit, self.norm(vit.norm, x))

    def _block(self, block: nn.Module, x: str, tokens: int) -> str:
        expect(block, BLOCK)
        mixed = self._attention(block.attn, self.norm(block.norm1, x), tokens)
        x = self.graph.add('Add', x, self.branch(block.ls1, block.drop_path1, mixed))
        hidden = self.mlp(block.mlp, self.norm(block.norm2, x))
        return self.graph.add('Add', x, self.branch(block.ls2, block.drop_path2, hidden))

    def _attention(self, attention: nn.Module, x: str, tokens: int) -> str:
        if not isinstance(attention, QuantAttention):
            expect(attention, ATTENTION)
        grid = self.layers.input_grid(attention.qkv)
        codes = x if grid is None else self.layers.codes(x, grid)
        is_scaled_late = not is_exactly(attention.q_norm, IDENTITY)
        factors = (1.0 if is_scaled_late else attention.scale, 1.0, 1.0)
        query, key, value = self.attentions.heads(attention.qkv, codes, tokens, attention.num_heads, factors)
        query, key = self.norm(attention.q_norm, query), self.norm(attention.k_norm, key)
        if is_scaled_late:
            query = self.graph.add('Mul', query, self.graph.constant(np.float32(attention.scale), 'scale'))
        self.attentions.note_products(attention)
        mixed = self.attentions.mixed(self.attentions.logits(query, key), value, [-1, tokens, attention.attn_dim])
        mixed = self.norm(attention.norm, mixed)
        if attention.gate is not None:
            mixed = self.graph.add('Mul', mixed, self.graph.add('Sigmoid', self.layers.linear(attention.gate, x)))
        return self.layers.linear(attention.proj, mixed)

    def _head(self, vit: nn.Module, x: str) -> str:
        """Write what follows the last norm, (images, tokens, channels) -> (images, classes)."""
        if is_exactly(vit, DISTILLED):
            parts = [self.head(h, self._token(x, i)) for i, h in enumerate((vit.head, vit.head_dist))]
            return self.graph.add('Mul', self.graph.add('Add', *parts), self.graph.constant(np.float32(0.5), 'half'))
        if vit.attn_pool is not None or vit.global_pool not in ('token', 'avg'):
            raise Unsupported(f'pooling {vit.global_pool!r}' + (' by attention' if vit.attn_pool is not None else ''))
        pooled = self._token(x, 0) if vit.global_pool == 'token' else self._mean(vit, x)
        return self.head(vit.head, self.norm(vit.fc_norm, pooled))

    def _token(self, x: str, index: int) -> str:
        return self.graph.add('Gather', x, self.graph.constant(np.int64(index), 'token'), axis=1)

    def _mean(self, vit: nn.Module, x: str) -> str:
        if not vit.pool_include_prefix and vit.num_prefix_tokens:
            start, end, axis = ([vit.num_prefix_tokens], [np.iinfo(np.int64).max], [1])
            x = self.graph.add('Slice', x, *(self.graph.constant(values, 'range') for values in (start, end, axis)))
        return self.graph.add('ReduceMean', x, self.graph.constant([1]), keepdims=0)


def _positions(vit: nn.Module) -> NDArray:
    """Return what is added to every token, (tokens, channels), where the prefix tokens are zero before."""
    prefix = [getattr(vit, name, None) for name in ('cls_token', 'dist_token', 'reg_token')]
    rows = [token.detach().cpu()[0] for token in prefix if token is not None]
    patches, channels = vit.patch_embed.num_patches, vit.embed_dim
    tokens = torch.cat([*rows, torch.zeros(patches, channels)])
    if len(tokens) - patches != vit.num_prefix_tokens:
        raise Unsupported(f'{vit.num_prefix_tokens} prefix tokens, of which {len(tokens) - patches} are known')
    if vit.pos_embed is not None:
        tokens[len(tokens) - vit.pos_embed.shape[1] :] += vit.pos_embed.detach().cpu()[0]
    return tokens.numpy()
