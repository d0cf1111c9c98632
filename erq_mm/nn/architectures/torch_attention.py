"""`nn.MultiheadAttention`, which DETR-like heads are built of."""

from torch import nn

from ..multihead import QuantMultiheadAttention
from .base import Input, Part


def _extra_keys(attention: nn.MultiheadAttention) -> str | None:
    if attention.bias_k is None and attention.bias_v is None and not attention.add_zero_attn:
        return None
    return 'nn.MultiheadAttention with keys that come from no token (add_bias_kv, add_zero_attn)'


PARTS = (
    Part(
        'torch.nn.modules.activation.MultiheadAttention',
        makes={name: Input('linear_input') for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj')},
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        refuses=_extra_keys,
        replacement=lambda module, products: QuantMultiheadAttention(module, **products),
    ),
)
