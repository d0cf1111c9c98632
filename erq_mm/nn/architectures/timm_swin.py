"""timm's Swin: the block itself pads windows between norm1 and qkv, after it has shifted them."""

from ..attention import QuantWindowMSA
from ..shifted_block import ShiftedWindowBlock
from .base import LAYER_NORM, Input, Mixing, Part, Residual
from .timm_vit import MLP, MLP_INPUTS, PATCH_EMBED

SWIN = 'timm.models.swin_transformer'
ATTENTION = f'{SWIN}.WindowAttention'

PARTS = (
    Part(
        f'{SWIN}.SwinTransformerBlock',
        inputs={'attn.qkv': Input('post_norm', 'norm1', windows=''), **MLP_INPUTS},
        residuals={'attn.proj': Residual('norm1', ''), 'mlp.fc2': Residual('norm2', needs={'mlp': MLP})},
        blocks=('',),
        needs={'attn': ATTENTION},
        replacement=lambda module, _: ShiftedWindowBlock(module),
    ),
    Part(
        f'{SWIN}.PatchMerging',
        inputs={'reduction': Input('post_norm', 'norm', needs={'norm': LAYER_NORM})},
        blocks=('',),
        is_merging=True,
    ),
    Part(
        f'{SWIN}.SwinTransformer',
        inputs={'patch_embed.proj': Input('image', needs={'patch_embed': PATCH_EMBED})},
        blocks=('patch_embed',),
    ),
    Part(
        ATTENTION,
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        qkv='qkv',
        mixing=Mixing('proj'),
        replacement=lambda module, products: QuantWindowMSA(module, **products),
    ),
)
