"""What stays float between integer layers, in faster kernels of the same function: attention, and merging of patches.

Once the layers are integers, these are most of the rest. Structure is known exactly or left as it is.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.attention import WINDOWS_PER_CHUNK, QuantWindowMSA, ShiftedWindows, WindowMasks
from ...nn.recognition import has_own_behaviour, is_exactly
from ...nn.swap import replace_modules_
from .modules import IntegerLinear

PATCH_MERGING = 'mmdet.models.layers.transformer.utils.PatchMerging'
ADAPTIVE_PADDING = 'mmdet.models.layers.transformer.utils.AdaptivePadding'


class FusedWindowMSA(QuantWindowMSA):
    """A `QuantWindowMSA` with float products, which torch's kernel of attention computes without copies."""

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        if self.training:  # the kernel has no dropout like that of `attn_drop`
            return super()._attend(x, bias, mask)
        return self.proj(self.mix(self.qkv(x), bias, mask))

    def mix(self, joint: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mixed values, (windows, tokens, channels), of queries, keys and values, three times as wide."""
        windows, tokens = joint.shape[:2]
        heads = self.num_heads, self.embed_dims // self.num_heads
        query, key, value = joint.view(windows, tokens, 3, *heads).permute(2, 0, 3, 1, 4)
        added = bias if mask is None else bias + mask[:, None]
        added = added.expand(windows, self.num_heads, tokens, tokens)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=self.scale)
        return mixed.transpose(1, 2).reshape(windows, tokens, self.embed_dims)


class GatheredWindows(ShiftedWindows):
    """`ShiftedWindows` around two integer layers: codes are gathered into windows and out of them, and not floats.

    Padding, shift, cutting and putting together are one gather of rows each, of a quarter of the memory.
    """

    def forward(self, query: Tensor, hw_shape: tuple[int, int]) -> Tensor:
        """Attend; `query` is (images, height * width, channels)."""
        attention = self.w_msa
        if self.training or not query.numel():
            return super().forward(query, hw_shape)
        into, out = self._rows(hw_shape)
        height, width = (size + -size % self.window_size for size in hw_shape)
        regions = self.regions(height, width, query.device)
        padding, bias = attention.qkv.encode(self.pad_value[None].float()), attention.position_bias()
        images = []
        for image in query.detach().float():
            codes = torch.cat([attention.qkv.encode(image), padding]).index_select(0, into)
            windows = codes.view(-1, self.window_size**2, codes.shape[1])
            mixed = torch.cat(list(self._mixed_codes(windows, bias, regions)))
            images.append(attention.proj.product(mixed.index_select(0, out)))
        return self.drop(attention.proj_drop(torch.stack(images) if len(images) > 1 else images[0][None]))

    def _mixed_codes(self, windows: Tensor, bias: Tensor, regions: Tensor | None) -> Iterator[Tensor]:
        """Yield the codes of the mixed values of some windows at a time, (windows * tokens, channels)."""
        attention, masks = self.w_msa, WindowMasks(regions, len(windows))
        for number, part in enumerate(windows.split(WINDOWS_PER_CHUNK)):
            joint = attention.qkv.product(part.flatten(0, 1)).unflatten(0, part.shape[:2])
            mixed = attention.mix(joint, bias, masks(number * WINDOWS_PER_CHUNK, len(part)))
            yield attention.proj.encode(mixed.flatten(0, 1))

    def _rows(self, hw_shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return which token every row of windows is, the number of tokens for padding, and the row of every token."""
        tokens = hw_shape[0] * hw_shape[1]
        into = self.arrange(torch.arange(tokens)[None, :, None], torch.tensor([tokens]), hw_shape).flatten()
        out = torch.empty(tokens + 1, dtype=torch.long)
        out[into] = torch.arange(len(into))
        return into, out[:-1]


class StridedMerging(nn.Module):
    """mmdet's `PatchMerging` of two by two patches, gathered in one copy where `nn.Unfold` makes three.

    Args:
        merging: mmdet's, whose children it takes over under their names.
    """

    def __init__(self, merging: nn.Module) -> None:
        super().__init__()
        self.in_channels, self.out_channels = merging.in_channels, merging.out_channels
        self.adap_padding, self.sampler = merging.adap_padding, merging.sampler
        self.norm, self.reduction = merging.norm, merging.reduction
        self.train(merging.training)

    def forward(self, x: Tensor, input_size: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Map (images, height * width, channels) to a quarter as many tokens, and return their height and width."""
        images, _, channels = x.shape
        x = x.view(images, *input_size, channels)
        if self.adap_padding is not None:
            x = self.adap_padding(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        height, width = x.shape[1] // 2, x.shape[2] // 2
        x = x[:, : 2 * height, : 2 * width].unflatten(2, (width, 2)).unflatten(1, (height, 2))
        # (images, height, 2, width, 2, channels) -> channels before places, the order of nn.Unfold
        x = x.permute(0, 1, 3, 5, 2, 4).reshape(images, height * width, 4 * channels)
        x = x if self.norm is None else self.norm(x)
        return self.reduction(x), (height, width)


def speed_up_surroundings_(model: nn.Module) -> list[str]:
    """Replace attention with float products, and patch merging, wherever they stand; return their names."""
    found: dict[nn.Module, nn.Module] = {}
    names: list[str] = []
    for name, module in model.named_modules():
        if name and _has_float_products(module):
            found[module] = _of_class(module, FusedWindowMSA)
        elif name and _is_two_by_two(module):
            found[module] = StridedMerging(module)
        else:
            continue
        names.append(name)
    replace_modules_(model, found)
    gathered = {m: _of_class(m, GatheredWindows) for name, m in model.named_modules() if name and _is_gatherable(m)}
    replace_modules_(model, gathered)
    return names


def _of_class(module: nn.Module, kind: type[nn.Module]) -> nn.Module:
    """Return the same module, children and state, with the methods of another class."""
    changed = kind.__new__(kind)
    changed.__dict__.update(module.__dict__)
    return changed


def _is_gatherable(module: nn.Module) -> bool:
    """Whether these are windows around a fused attention between two integer layers, without hooks in between."""
    if type(module) is not ShiftedWindows or has_own_behaviour(module):
        return False
    attention = module.w_msa
    layers = [getattr(attention, name, None) for name in ('qkv', 'proj')]
    parts = [attention, attention.proj_drop, *layers] if type(attention) is FusedWindowMSA else []
    is_integer = bool(parts) and all(isinstance(layer, IntegerLinear) for layer in layers)
    return is_integer and not any(has_own_behaviour(part) for part in parts)


def _has_float_products(module: nn.Module) -> bool:
    if type(module) is not QuantWindowMSA or has_own_behaviour(module):
        return False
    products = module.query_key, module.probability_value
    quantizers = [q for product in products for q in (product.left_quantizer, product.right_quantizer)]
    silent = not any(has_own_behaviour(part) for part in (*products, *quantizers, module.attn_drop))
    return silent and not any(quantizer.is_active for quantizer in quantizers)


def _is_two_by_two(module: nn.Module) -> bool:
    if not is_exactly(module, PATCH_MERGING):
        return False
    sampler, padding = module.sampler, module.adap_padding
    if type(sampler) is not nn.Unfold or has_own_behaviour(sampler):
        return False
    sizes = [_pair(size) for size in (sampler.kernel_size, sampler.stride, sampler.dilation, sampler.padding)]
    return sizes == [(2, 2), (2, 2), (1, 1), (0, 0)] and (padding is None or is_exactly(padding, ADAPTIVE_PADDING))


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
