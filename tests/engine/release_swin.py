"""A Swin in the layout of the original release, written from the paper: the reference for the converter's test."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')).flatten(1)
        offset = grid[:, :, None] - grid[:, None, :] + side - 1
        self.register_buffer('relative_position_index', offset[0] * (2 * side - 1) + offset[1])
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x: (windows, tokens, dim); allowed: (windows, tokens, tokens), which token may look at which."""
        windows, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(windows, tokens, 3, self.heads, dim // self.heads).unbind(2)
        logits = torch.einsum('wihc,wjhc->whij', q, k) * (dim // self.heads) ** -0.5
        logits = logits + self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        logits = logits.masked_fill(~allowed[:, None], -100.0 + 0.0)
        return self.proj(torch.einsum('whij,wjhc->wihc', logits.softmax(-1), v).reshape(windows, tokens, dim))


class Mlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.side, self.shift = side, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads, side), Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        """x: (images, H, W, dim)."""
        images, height, width, dim = x.shape
        side = self.side
        padded = F.pad(self.norm1(x), (0, 0, 0, -width % side, 0, -height % side)).roll((-self.shift,) * 2, (1, 2))
        tall, wide = padded.shape[1:3]

        def windows(t: Tensor) -> Tensor:
            t = t.view(len(t), tall // side, side, wide // side, side, -1).transpose(2, 3)
            return t.reshape(-1, side * side, t.shape[-1])

        def bands(size: int) -> Tensor:
            where = torch.arange(size)
            return (where >= size - side).int() + (where >= size - self.shift).int() if self.shift else 0 * where

        region = windows((bands(tall)[:, None] * 3 + bands(wide)).float()[None, :, :, None].expand(images, -1, -1, -1))
        out = self.attn(windows(padded), region == region.transpose(1, 2))
        out = (
            out.view(images, tall // side, wide // side, side, side, dim)
            .transpose(2, 3)
            .reshape(images, tall, wide, dim)
        )
        x = x + out.roll((self.shift,) * 2, (1, 2))[:, :height, :width]
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    """Concatenates (0, 0), (1, 0), (0, 1), (1, 1): rows vary first, whole channel blocks."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.reduction = nn.LayerNorm(4 * dim), nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class Stage(nn.Module):
    def __init__(self, dim: int, heads: int, side: int, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, side, shift) for shift in (0, side // 2))
        if merge:
            self.downsample = Merging(dim)


class ReleaseSwin(nn.Module):
    """Two stages."""

    def __init__(self, dim: int = 16, side: int = 7) -> None:
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj, self.patch_embed.norm = nn.Conv2d(3, dim, 4, 4), nn.LayerNorm(dim)
        self.layers = nn.ModuleList([Stage(dim, 2, side, True), Stage(2 * dim, 4, side, False)])
        self.norm0, self.norm1 = nn.LayerNorm(dim), nn.LayerNorm(2 * dim)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_embed.norm(self.patch_embed.proj(image).permute(0, 2, 3, 1))
        outputs = []
        for stage, norm in zip(self.layers, (self.norm0, self.norm1), strict=True):
            for block in stage.blocks:
                x = block(x)
            outputs.append(norm(x).permute(0, 3, 1, 2))
            x = stage.downsample(x) if hasattr(stage, 'downsample') else x
        return outputs
