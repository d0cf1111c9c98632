"""What stays float between integer layers, in faster kernels of the same function: attention, and merging of patches.

Once the layers are integers, these are most of the rest. Structure is known exactly or left as it is.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from ...nn.attention import QuantWindowMSA
from ...nn.recognition import has_own_behaviour, is_exactly
from ...nn.swap import replace_modules_

PATCH_MERGING = 'mmdet.models.layers.transformer.utils.PatchMerging'
ADAPTIVE_PADDING = 'mmdet.models.layers.transformer.utils.AdaptivePadding'


class FusedWindowMSA(QuantWindowMSA):
    """A `QuantWindowMSA` with float products, which torch's kernel of attention computes without copies."""

    def _attend(self, x: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        if self.training:  # the kernel has no dropout like that of `attn_drop`
            return super()._attend(x, bias, mask)
        windows, tokens = x.shape[:2]
        query, key, value = self.qkv(x).view(windows, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        added = bias if mask is None else bias + mask[:, None]
        added = added.expand(windows, self.num_heads, tokens, tokens)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=added, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(windows, tokens, self.embed_dims))


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
            found[module] = FusedWindowMSA.__new__(FusedWindowMSA)
            found[module].__dict__.update(module.__dict__)
        elif name and _is_two_by_two(module):
            found[module] = StridedMerging(module)
        else:
            continue
        names.append(name)
    replace_modules_(model, found)
    return names


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
