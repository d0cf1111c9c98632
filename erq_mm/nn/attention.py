"""Window attention of Swin, with both matrix products quantized, and mmdet's windows padded by a chosen value.

The modules take over the children of mmdet's `ShiftWindowMSA` and of mmdet's `WindowMSA` or timm's `WindowAttention`
under their names, and read nothing but their attributes, so neither is imported here.
"""

import torch
from torch import Tensor, nn

from .matmul import QuantMatMul
from .windows import PaddedWindows, merge, pad_to_windows, partition, region_numbers

# On a CPU a few windows at a time stay in its cache from the first product to the last; results are the same bits
WINDOWS_PER_CHUNK = 64
# Added to masked logits. The networks' own is -100, whose exponential is a subnormal float, with which CPUs are ten
# times as slow; of this it is zero, which changes no bit unless a masked logit is 80 above all that are not masked
MASKED = -1e4


class QuantWindowMSA(nn.Module):
    """Replaces window attention: softmax(s q k^T + relative position bias + mask) v, with s q quantized and not q.

    Args:
        attention: mmdet's `WindowMSA` or timm's `WindowAttention`.
        query_key, probability_value: the quantized products.
    """

    def __init__(self, attention: nn.Module, query_key: QuantMatMul, probability_value: QuantMatMul) -> None:
        super().__init__()
        self.embed_dims, self.num_heads = attention.qkv.out_features // 3, attention.num_heads
        self.window_size, self.scale = attention.window_size, attention.scale
        self.relative_position_bias_table = attention.relative_position_bias_table
        is_saved = 'relative_position_index' not in attention._non_persistent_buffers_set
        self.register_buffer('relative_position_index', attention.relative_position_index, persistent=is_saved)
        self.qkv, self.proj = attention.qkv, attention.proj
        self.attn_drop, self.proj_drop = attention.attn_drop, attention.proj_drop
        device = attention.relative_position_bias_table.device
        self.query_key, self.probability_value = query_key.to(device), probability_value.to(device)
        self.train(attention.training)

    def position_bias(self) -> Tensor:
        """Return the relative position bias, (heads, tokens, tokens)."""
        tokens = self.window_size[0] * self.window_size[1]
        table = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        return table.view(tokens, tokens, self.num_heads).permute(2, 0, 1).contiguous()

    def forward(self, x: Tensor, mask: Tensor | None = None, regions: Tensor | None = None) -> Tensor:
        """Attend within windows.

        Args:
            x: (images * windows, tokens, channels).
            mask: added to the logits, (windows, tokens, tokens), as the float modules take it, or None.
            regions: (windows, tokens), numbers of the image regions that a shifted window joins; tokens of different
                regions do not see each other. None when windows are not shifted.
        """
        bias = self.position_bias()
        if not _is_chunked(x):
            mask = region_mask(regions) if regions is not None else mask
            # shape[0], as len() would fix the number of windows in an exported graph
            mask = None if mask is None else mask.repeat(x.shape[0] // mask.shape[0], 1, 1)
            return self.proj_drop(self._attend(x, bias, mask))
        masks = WindowMasks(regions, len(x)) if mask is None else _GivenMasks(mask, len(x))
        step = WINDOWS_PER_CHUNK
        parts = [self._attend(part, bias, masks(i * step, len(part))) for i, part in enumerate(x.split(step))]
        return self.proj_drop(torch.cat(parts) if len(parts) > 1 else parts[0])

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        windows, tokens = x.shape[:2]
        query, key, value = self.qkv(x).view(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = self.query_key(query * self.scale, key.transpose(-2, -1))
        logits += bias
        if mask is not None:
            logits += mask[:, None]
        probability = self.attn_drop(logits.softmax(-1))
        mixed = self.probability_value(probability, value)
        return self.proj(mixed.transpose(1, 2).reshape(windows, tokens, self.embed_dims))


def _is_chunked(x: Tensor) -> bool:
    """Whether windows go a few at a time: not on GPUs, which would wait for their regions, and not in graphs."""
    return x.device.type == 'cpu' and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def region_mask(regions: Tensor) -> Tensor:
    """Return what is added to the logits, (windows, tokens, tokens); `regions` as in `QuantWindowMSA.forward`."""
    return (regions[:, None, :] != regions[:, :, None]) * MASKED


class WindowMasks:
    """The additive masks of ranges of windows; None where no window of the range joins several regions."""

    def __init__(self, regions: Tensor | None, num_windows: int) -> None:
        self.regions = regions
        if regions is not None:
            self.regions = regions.repeat(max(num_windows // len(regions), 1), 1)
            self.joins = (regions != regions[:, :1]).any(1).repeat(max(num_windows // len(regions), 1)).tolist()

    def __call__(self, start: int, length: int) -> Tensor | None:
        if self.regions is None or not any(self.joins[start : start + length]):
            return None
        return region_mask(self.regions[start : start + length])


class _GivenMasks:
    """The same of masks that are given."""

    def __init__(self, mask: Tensor, num_windows: int) -> None:
        self.mask = mask.repeat(max(num_windows // len(mask), 1), 1, 1)

    def __call__(self, start: int, length: int) -> Tensor:
        return self.mask[start : start + length]


class ShiftedWindows(PaddedWindows):
    """Replaces `ShiftWindowMSA`: cut a feature map into (shifted) windows, attend, and put it together again.

    Args:
        attention: mmdet's `ShiftWindowMSA`, whose `w_msa` has been replaced already.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__(attention.w_msa.embed_dims, attention.w_msa.relative_position_bias_table)
        self.window_size, self.shift_size = attention.window_size, attention.shift_size
        self.w_msa, self.drop = attention.w_msa, attention.drop
        self.train(attention.training)

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend; `query` is (images, height * width, channels)."""
        images, _, channels = query.shape
        height, width = hw_shape
        window, shift = (self.window_size,) * 2, self.shift_size
        padded = self._shifted(query, hw_shape, self.pad_value)
        regions = self.regions(*padded.shape[1:3], padded.device)
        merged = merge(self.w_msa(partition(padded, window), regions=regions), window, padded.shape)
        if shift > 0:
            merged = torch.roll(merged, (shift, shift), dims=(1, 2))
        return self.drop(merged[:, :height, :width].reshape(images, height * width, channels))

    def regions(self, height: int, width: int, device: torch.device) -> Tensor | None:
        """Return `region_numbers` of a padded map, (windows, tokens), or None if windows are not shifted."""
        if self.shift_size == 0:
            return None
        return region_numbers(height, width, (self.window_size,) * 2, (self.shift_size,) * 2, device)

    def arrange(self, tokens: Tensor, fill: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Return tokens, (images, height * width, any), in the order in which the attention sees them.

        Args:
            fill: what stands in padded places, (any,).
        """
        return partition(self._shifted(tokens, hw_shape, fill), (self.window_size,) * 2)

    def _shifted(self, tokens: Tensor, hw_shape: tuple[int, int], fill: Tensor) -> Tensor:
        """Return the feature map, padded to whole windows and shifted."""
        shift = self.shift_size
        padded = pad_to_windows(tokens.view(tokens.shape[0], *hw_shape, tokens.shape[2]), (self.window_size,) * 2, fill)
        return torch.roll(padded, (-shift, -shift), dims=(1, 2)) if shift > 0 else padded
