"""timm's ViT, DeiT and DINOv2: pre-norm blocks; LayerScale, drop path and norms of queries and keys change nothing."""

from ..self_attention import QuantAttention
from .base import GELU, IDENTITY, Input, Mixing, Part, Residual

MLP = 'timm.layers.mlp.Mlp'
PATCH_EMBED = 'timm.layers.patch_embed.PatchEmbed'
ATTENTION = 'timm.layers.attention.Attention'
# the distilled one has methods of its own for its second token and head
TRANSFORMERS = ('timm.models.vision_transformer.VisionTransformer', 'timm.models.deit.VisionTransformerDistilled')

MLP_INPUTS = {
    'mlp.fc1': Input('post_norm', 'norm2', needs={'mlp': MLP}),
    'mlp.fc2': Input('post_gelu', needs={'mlp': MLP, 'mlp.act': GELU, 'mlp.norm': IDENTITY}),
}

PARTS = (
    Part(
        'timm.models.vision_transformer.Block',
        inputs={
            'attn.qkv': Input('post_norm', 'norm1', needs={'attn': ATTENTION}),
            'attn.gate': Input('post_norm', 'norm1', needs={'attn': ATTENTION}),
            **MLP_INPUTS,
        },
        # a LayerScale between them multiplies what is added
        residuals={
            'attn.proj': Residual('norm1', needs={'attn': ATTENTION, 'ls1': IDENTITY}),
            'mlp.fc2': Residual('norm2', needs={'mlp': MLP, 'ls2': IDENTITY}),
        },
        blocks=('',),
    ),
    *(
        Part(
            kind,
            inputs={'patch_embed.proj': Input('image', needs={'patch_embed': PATCH_EMBED})},
            blocks=('patch_embed',),
        )
        for kind in TRANSFORMERS
    ),
    Part(
        ATTENTION,
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        qkv='qkv',
        mixing=Mixing('proj', {'q_norm': IDENTITY, 'k_norm': IDENTITY, 'norm': IDENTITY}, without=('gate',)),
        replacement=lambda module, products: QuantAttention(module, **products),
    ),
)
