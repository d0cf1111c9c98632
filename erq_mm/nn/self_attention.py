"""Attention of all tokens to all tokens, unfused, so that quantizers see its scores; timm's, and what others share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .matmul import QuantMatMul


class QuantAttend(nn.Module):
    """softmax(s q k^T + mask) v with both products quantized; what stands around it is left to subclasses.

    Queries are scaled before they are quantized, as the grids of the publications see them.

    Args:
        scale: s.
        query_key, probability_value: the quantized products.
        device: where they are computed.
    """

    def __init__(
        self, scale: float, query_key: QuantMatMul, probability_value: QuantMatMul, device: torch.device
    ) -> None:
        super().__init__()
        self.scale = scale
        self.query_key, self.probability_value = query_key.to(device), probability_value.to(device)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the mixed values, and the probabilities that mixed them.

        Args:
            query, key, value: (batch, heads, tokens, channels per head).
            mask: added to the logits, or None.
            dropout: applied to the probabilities.

        Returns:
            (batch, tokens, heads * channels per head), and (batch, heads, tokens, tokens).
        """
        logits = self.query_key(query * self.scale, key.transpose(-2, -1))
        logits = logits if mask is None else logits + mask
        probability = dropout(logits.softmax(-1))
        return self.probability_value(probability, value).transpose(1, 2).flatten(2), probability


class QuantAttention(QuantAttend):
    """Replaces timm's `Attention`, with all its options: norms of queries, keys and of what is mixed, and the gate.

    Args:
        attention: timm's, whose children it takes over under their names.
        query_key, probability_value: the quantized products.
    """

    def __init__(self, attention: nn.Module, query_key: QuantMatMul, probability_value: QuantMatMul) -> None:
        super().__init__(attention.scale, query_key, probability_value, next(attention.parameters()).device)
        self.num_heads, self.head_dim, self.attn_dim = attention.num_heads, attention.head_dim, attention.attn_dim
        self.qkv, self.q_norm, self.k_norm = attention.qkv, attention.q_norm, attention.k_norm
        self.attn_drop, self.norm, self.gate = attention.attn_drop, attention.norm, attention.gate
        self.proj, self.proj_drop = attention.proj, attention.proj_drop
        self.train(attention.training)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; `x` is (batch, tokens, channels), the mask bool (True may be seen) or added to the logits."""
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        mask = additive_mask(attn_mask, is_causal, query)
        mixed, _ = self.attend(self.q_norm(query), self.k_norm(key), value, mask, self.attn_drop)
        mixed = self.norm(mixed)
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mixed))


def additive_mask(mask: Tensor | None, is_causal: bool, query: Tensor) -> Tensor | None:
    """Return what is added to the logits of self attention, in the words of `scaled_dot_product_attention`.

    Args:
        mask: bool (True may be seen), or added as it is, or None.
        is_causal: no token sees later ones.
        query: (..., tokens, channels).
    """
    if is_causal:
        tokens = query.shape[-2]
        return query.new_full((tokens, tokens), -torch.inf).triu(1)
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
