"""The DINOv2 of `transformers`: queries, keys and values have a layer each, and all three see one LayerNorm."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from ..matmul import QuantMatMul
from ..self_attention import QuantAttend, additive_mask
from .base import Input, Part

DINOV2 = 'transformers.models.dinov2.modeling_dinov2'
ATTENTION, MLP, GATED_MLP = f'{DINOV2}.Dinov2Attention', f'{DINOV2}.Dinov2MLP', f'{DINOV2}.Dinov2SwiGLUFFN'
GELU = 'transformers.activations.GELUActivation'
WITH_EXACT_MASKS = ('sdpa', 'eager')


class QuantDinov2Attention(QuantAttend):
    """Replaces `Dinov2Attention`, whose children it takes over under their names.

    Args:
        attention: the original.
        query_key, probability_value: the quantized products.
    """

    def __init__(self, attention: nn.Module, query_key: QuantMatMul, probability_value: QuantMatMul) -> None:
        super().__init__(attention.scaling, query_key, probability_value, attention.q_proj.weight.device)
        self.head_dim, self.attention_dropout = attention.head_dim, attention.attention_dropout
        self.returns_probability = attention.config._attn_implementation == 'eager'
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.o_proj = attention.o_proj
        self.train(attention.training)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **_: object
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; `hidden_states` is (batch, tokens, channels). The probabilities are returned where they were."""
        query, key, value = (
            layer(hidden_states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = partial(F.dropout, p=self.attention_dropout, training=self.training)
        mixed, probability = self.attend(query, key, value, additive_mask(attention_mask, False, query), dropout)
        return self.o_proj(mixed), probability if self.returns_probability else None


def _other_kind(attention: nn.Module) -> str | None:
    if not hasattr(attention, 'q_proj'):
        return 'Dinov2Attention is that of another release of transformers (version 5 is known)'
    kind = attention.config._attn_implementation
    return None if kind in WITH_EXACT_MASKS else f'attn_implementation={kind!r} has masks of its own'


def _behind(norm: str, parent: str, kind: str, *layers: str) -> dict[str, Input]:
    return {f'{parent}.{layer}': Input('post_norm', norm, needs={parent: kind}) for layer in layers}


PARTS = (
    Part(
        f'{DINOV2}.Dinov2Layer',
        inputs={
            **_behind('norm1', 'attention', ATTENTION, 'q_proj', 'k_proj', 'v_proj'),
            **_behind('norm2', 'mlp', MLP, 'fc1'),
            **_behind('norm2', 'mlp', GATED_MLP, 'gate_proj', 'up_proj'),
            'mlp.fc2': Input('post_gelu', needs={'mlp': MLP, 'mlp.activation_fn': GELU}),
        },
        blocks=('',),
    ),
    Part(
        f'{DINOV2}.Dinov2Embeddings',
        inputs={
            'patch_embeddings.projection': Input('image', needs={'patch_embeddings': f'{DINOV2}.Dinov2PatchEmbeddings'})
        },
        blocks=('patch_embeddings',),
    ),
    Part(
        ATTENTION,
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        refuses=_other_kind,
        replacement=lambda module, products: QuantDinov2Attention(module, **products),
    ),
)
