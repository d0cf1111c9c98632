"""mmdet's Swin: pre-norm blocks, windows padded between norm1 and qkv, patches merged behind a norm."""

from ..attention import QuantWindowMSA, ShiftedWindows
from .base import GELU, LAYER_NORM, Input, Mixing, Part, Residual

SWIN = 'mmdet.models.backbones.swin'
LAYERS = 'mmdet.models.layers.transformer.utils'
FFN = 'mmcv.cnn.bricks.transformer.FFN'
WINDOWS, ATTENTION = f'{SWIN}.ShiftWindowMSA', f'{SWIN}.WindowMSA'

PARTS = (
    Part(
        f'{SWIN}.SwinBlock',
        inputs={
            'attn.w_msa.qkv': Input('post_norm', 'norm1', 'attn', {'attn': WINDOWS, 'attn.w_msa': ATTENTION}),
            'ffn.layers.0.0': Input('post_norm', 'norm2', needs={'ffn': FFN}),
            'ffn.layers.1': Input('post_gelu', needs={'ffn': FFN, 'ffn.layers.0.1': GELU}),
        },
        residuals={
            'attn.w_msa.proj': Residual('norm1', 'attn', {'attn': WINDOWS, 'attn.w_msa': ATTENTION}),
            'ffn.layers.1': Residual('norm2', needs={'ffn': FFN}),
        },
        blocks=('',),
    ),
    Part(
        f'{LAYERS}.PatchMerging',
        inputs={'reduction': Input('post_norm', 'norm', needs={'norm': LAYER_NORM})},
        blocks=('',),
        is_merging=True,
    ),
    Part(
        f'{SWIN}.SwinTransformer',
        inputs={'patch_embed.projection': Input('image', needs={'patch_embed': f'{LAYERS}.PatchEmbed'})},
        blocks=('patch_embed',),
    ),
    Part(WINDOWS, needs={'w_msa': ATTENTION}, replacement=lambda module, _: ShiftedWindows(module)),
    Part(
        ATTENTION,
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        qkv='qkv',
        mixing=Mixing('proj'),
        replacement=lambda module, products: QuantWindowMSA(module, **products),
    ),
)
