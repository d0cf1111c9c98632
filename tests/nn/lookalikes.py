"""Modules with the attribute names of mmdet's Swin that compute something else."""

import torch
from torch import Tensor, nn


class NormLastAttention(nn.Module):
    """Windows of four tokens are not cut: plain attention under Swin's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, -1)
        return self.proj(torch.softmax(query @ key.transpose(-2, -1) / 8, -1) @ value)


class NormLastWindows(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.w_msa, self.shift_size, self.window_size = NormLastAttention(width), 0, 7

    def forward(self, x: Tensor) -> Tensor:
        return self.w_msa(x)


class NormLastFfn(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, 2 * width), nn.GELU()), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SwinBlock(nn.Module):
    """Residual blocks whose LayerNorms follow the layers, as in Swin v2."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.attn, self.ffn = NormLastWindows(width), NormLastFfn(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.norm1(self.attn(x))
        return x + self.norm2(self.ffn(x))


class PatchMerging(nn.Module):
    """The reduction first, then the norm."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.reduction, self.norm = nn.Linear(4 * width, 2 * width, bias=False), nn.LayerNorm(2 * width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.reshape(x.shape[0], -1, 4 * x.shape[-1])))


class WindowAttention(nn.Module):
    """A window attention with the names of the Swin release: mmdet's parts, other constructor arguments."""

    def __init__(self, dim: int = 32, window: tuple[int, int] = (4, 4), heads: int = 4) -> None:
        super().__init__()
        self.dim, self.window_size, self.num_heads, self.scale = dim, window, heads, (dim // heads) ** -0.5
        tokens = window[0] * window[1]
        self.relative_position_bias_table = nn.Parameter(torch.randn(tokens * tokens, heads))
        self.register_buffer('relative_position_index', torch.arange(tokens * tokens).view(tokens, tokens))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        windows, tokens, width = x.shape
        query, key, value = self.qkv(x).view(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(tokens, tokens, -1)
        weights = self.attn_drop((query * self.scale @ key.transpose(-2, -1) + bias.permute(2, 0, 1)).softmax(-1))
        return self.proj_drop(self.proj((weights @ value).transpose(1, 2).reshape(windows, tokens, width)))
