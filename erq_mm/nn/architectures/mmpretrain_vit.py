"""mmpretrain's ViT and DeiT: timm's blocks in mmcv's parts."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..matmul import QuantMatMul
from ..self_attention import QuantAttend
from .base import GELU, Input, Mixing, Part
from .mmdet_swin import FFN

BACKBONES = 'mmpretrain.models.backbones'
ATTENTION = 'mmpretrain.models.utils.attention.MultiheadAttention'
PATCH_EMBED = 'mmcv.cnn.bricks.transformer.PatchEmbed'
# the distilled one has a forward of its own for its second token
TRANSFORMERS = (f'{BACKBONES}.vision_transformer.VisionTransformer', f'{BACKBONES}.deit.DistilledVisionTransformer')


class QuantMmpretrainAttention(QuantAttend):
    """Replaces mmpretrain's `MultiheadAttention`, whose children it takes over under their names.

    Args:
        attention: the original, without a shortcut from the values.
        query_key, probability_value: the quantized products.
    """

    def __init__(self, attention: nn.Module, query_key: QuantMatMul, probability_value: QuantMatMul) -> None:
        super().__init__(attention.head_dims**-0.5, query_key, probability_value, attention.qkv.weight.device)
        self.num_heads, self.head_dims, self.attn_drop = attention.num_heads, attention.head_dims, attention.attn_drop
        self.qkv, self.proj = attention.qkv, attention.proj
        self.proj_drop, self.out_drop, self.gamma1 = attention.proj_drop, attention.out_drop, attention.gamma1
        self.train(attention.training)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; `x` is (batch, tokens, channels)."""
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dims)).permute(2, 0, 3, 1, 4)
        mixed, _ = self.attend(*heads.unbind(0), None, partial(F.dropout, p=self.attn_drop, training=self.training))
        return self.out_drop(self.gamma1(self.proj_drop(self.proj(mixed))))


PARTS = (
    Part(
        f'{BACKBONES}.vision_transformer.TransformerEncoderLayer',
        inputs={
            'attn.qkv': Input('post_norm', 'ln1', needs={'attn': ATTENTION}),
            'ffn.layers.0.0': Input('post_norm', 'ln2', needs={'ffn': FFN}),
            'ffn.layers.1': Input('post_gelu', needs={'ffn': FFN, 'ffn.layers.0.1': GELU}),
        },
        blocks=('',),
    ),
    *(
        Part(
            kind,
            inputs={'patch_embed.projection': Input('image', needs={'patch_embed': PATCH_EMBED})},
            blocks=('patch_embed',),
        )
        for kind in TRANSFORMERS
    ),
    Part(
        ATTENTION,
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        qkv='qkv',
        mixing=Mixing('proj'),
        refuses=lambda attention: (
            'its values also go past the attention (v_shortcut)' if attention.v_shortcut else None
        ),
        replacement=lambda module, products: QuantMmpretrainAttention(module, **products),
    ),
)
