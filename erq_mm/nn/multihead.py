"""`nn.MultiheadAttention` as four linear layers and two products, each of which can be quantized."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .matmul import QuantMatMul


class QuantMultiheadAttention(nn.Module):
    """Replaces `nn.MultiheadAttention`, whose fused kernels multiply by parameters that no layer has.

    The projection to queries, keys and values becomes three layers, so that each of their inputs has a grid of its own
    (DETR adds positions to two of them). Queries are scaled before they are quantized. Takes and returns what the
    original does; nested tensors are not supported.

    Args:
        attention: the original, without `bias_k`, `bias_v` and `add_zero_attn`.
        query_key, probability_value: the quantized products.
    """

    def __init__(
        self, attention: nn.MultiheadAttention, query_key: QuantMatMul, probability_value: QuantMatMul
    ) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = attention.embed_dim, attention.num_heads, attention.head_dim
        self.dropout, self.batch_first = attention.dropout, attention.batch_first
        if attention._qkv_same_embed_dim:
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight
        biases = (None,) * 3 if attention.in_proj_bias is None else attention.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b) for w, b in zip(weights, biases, strict=True))
        self.out_proj = attention.out_proj
        device = attention.out_proj.weight.device
        self.query_key, self.probability_value = query_key.to(device), probability_value.to(device)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; see `nn.MultiheadAttention.forward`.

        Raises:
            ValueError: `is_causal` without `attn_mask`, as in the original.
        """
        if is_causal and attn_mask is None:
            raise ValueError('is_causal=True is a hint about attn_mask, which must be given with it, got None')
        is_batched = query.dim() == 3
        query, key, value = (self._to_batch_first(x, is_batched) for x in (query, key, value))
        mask = self._mask(
            attn_mask, key_padding_mask if is_batched or key_padding_mask is None else key_padding_mask[None], query
        )
        q = self._heads(self.q_proj(query)) * self.head_dim**-0.5
        logits = self.query_key(q, self._heads(self.k_proj(key)).transpose(-2, -1))
        probability = (logits if mask is None else logits + mask).softmax(-1)
        if not need_weights:  # as the kernel of that case: a query that may see nothing gets zeros
            probability = probability.nan_to_num(0.0)
        dropped = F.dropout(probability, self.dropout, self.training)
        mixed = self.probability_value(dropped, self._heads(self.v_proj(value)))
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return self._from_batch_first(output, is_batched), self._weights(
            probability, need_weights, average_attn_weights, is_batched
        )

    @property
    def in_proj_weight(self) -> Tensor:
        """The weights of the three projections, (3 embed, embed), for code that looks at them under this name."""
        return torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])

    def _to_batch_first(self, x: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            return x[None]
        return x if self.batch_first else x.transpose(0, 1)

    def _from_batch_first(self, x: Tensor, is_batched: bool) -> Tensor:
        if not is_batched:
            return x[0]
        return x if self.batch_first else x.transpose(0, 1)

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, channels) -> (batch, heads, tokens, channels per head)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(self, attn_mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
        """Return what is added to the logits, to broadcast against (batch, heads, queries, keys)."""
        mask = None
        if attn_mask is not None:
            mask = _additive(attn_mask, query)
            mask = mask if mask.dim() == 2 else mask.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            hidden = _additive(padding, query)[:, None, None]
            mask = hidden if mask is None else mask + hidden
        return mask

    def _weights(self, probability: Tensor, wanted: bool, average: bool, is_batched: bool) -> Tensor | None:
        if not wanted:
            return None
        weights = probability.mean(1) if average else probability
        return weights if is_batched else weights[0]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)
