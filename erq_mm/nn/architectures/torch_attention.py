"""`nn.MultiheadAttention`, which DETR-like heads are built of."""

from torch import nn

from ..multihead import QuantMultiheadAttention
from .base import Input, Part


def _is_ordinary(attention: nn.MultiheadAttention) -> bool:
    return attention.bias_k is None and attention.bias_v is None and not attention.add_zero_attn


PARTS = (
    Part(
        'torch.nn.modules.activation.MultiheadAttention',
        makes={name: Input('linear_input') for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj')},
        products={'query_key': ('query', 'key'), 'probability_value': ('post_softmax', 'value')},
        accepts=_is_ordinary,
        replacement=lambda module, products: QuantMultiheadAttention(module, **products),
    ),
)
