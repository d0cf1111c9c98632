"""timm's Swin, float or quantized, as ONNX: any number of images of the size the network is built for."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...nn.architectures.base import IDENTITY
from ...nn.attention import QuantWindowMSA, region_mask
from ...nn.recognition import is_exactly
from ...nn.shifted_block import ShiftedWindowBlock
from ...nn.windows import merge, pad_to_windows, partition, region_numbers
from .attention import AttentionWriter, position_bias
from .layers import LayerWriter
from .supported import Unsupported, expect
from .timm_layers import NOTHING_IN_EVAL, TimmWriter

FAMILY = 'timm.models.swin_transformer'
HEAD = 'timm.layers.classifier.ClassifierHead'
POOLING = 'timm.layers.adaptive_avgmax_pool.FastAdaptiveAvgPool'
PADDING = torch.tensor([-1])
Size = tuple[int, int]  # height and width of a feature map


class SwinTransformerWriter(TimmWriter):
    """Writes a `SwinTransformer`; where tokens go between map and windows is worked out here, not in the graph."""

    types = (f'{FAMILY}.SwinTransformer',)

    def __init__(self, layers: LayerWriter) -> None:
        super().__init__(layers)
        self.attentions = AttentionWriter(layers)

    def network(self, swin: nn.Module, image: str) -> str:
        """Write everything from (images, 3, H, W) to (images, classes).

        Raises:
            Unsupported: the network has something that this writer does not know.
        """
        x, size = self.patches(swin.patch_embed, image), tuple(swin.patch_embed.grid_size)
        for stage in swin.layers:
            expect(stage, f'{FAMILY}.SwinTransformerStage')
            if not is_exactly(stage.downsample, IDENTITY):
                x, size = self._merge(stage.downsample, x, size)
            for block in stage.blocks:
                x = self._block(block, x, size)
        return self._head(swin.head, self.norm(swin.norm, x))

    def _block(self, block: nn.Module, x: str, size: Size) -> str:
        if not isinstance(block, ShiftedWindowBlock):
            expect(block, f'{FAMILY}.SwinTransformerBlock')
        for drop in (block.drop_path1, block.drop_path2):
            expect(drop, NOTHING_IN_EVAL)
        x = self.graph.add('Add', x, self._attention(block, self.norm(block.norm1, x), size))
        return self.graph.add('Add', x, self.mlp(block.mlp, self.norm(block.norm2, x)))

    def _attention(self, block: nn.Module, x: str, size: Size) -> str:
        """Gather rows into windows, attend, and gather them back."""
        attention, window, shift = block.attn, tuple(block.window_size), tuple(block.shift_size)
        if not isinstance(attention, QuantWindowMSA):
            expect(attention, f'{FAMILY}.WindowAttention')
        channels, tokens, whole = attention.qkv.in_features, window[0] * window[1], padded(size, window)
        pad = getattr(block, 'pad_value', None)
        pad = np.zeros(channels, np.float32) if pad is None else pad.detach().cpu().numpy()
        grid = self.layers.input_grid(attention.qkv)
        if grid is not None:  # codes are a quarter of the memory to move
            x, pad = self.layers.codes(x, grid), grid.encode(pad)
        rows = self._gathered(x, into_windows(size, window, shift), pad)
        query, key, value = self.attentions.heads(
            attention.qkv, rows, tokens, attention.num_heads, (attention.scale, 1.0, 1.0)
        )
        self.attentions.note_products(attention)
        logits = self._biased(attention, self.attentions.logits(query, key), size, window, shift)
        mixed = self.attentions.mixed(logits, value, [-1, whole[0] * whole[1], attention.qkv.out_features // 3])
        codes = self.layers.input_codes(attention.proj, mixed)
        # in front of the projection, which so has no rows of padding
        return self.layers.linear_of_codes(attention.proj, self._gathered(codes, out_of_windows(size, window, shift)))

    def _biased(self, attention: nn.Module, logits: str, size: Size, window: Size, shift: Size) -> str:
        """Add position bias and mask to logits, (images * windows, heads, tokens, tokens)."""
        name = self.layers.names[attention]
        logits = self.graph.add('Add', logits, self.graph.constant(position_bias(attention)[None], f'{name}.bias'))
        if not any(shift):
            return logits
        mask = region_mask(region_numbers(*padded(size, window), window, shift, torch.device('cpu')))
        windows, tokens, _ = mask.shape
        mask = self.graph.once(
            ('mask', size, window, shift),
            lambda: self.graph.constant(mask.float().numpy()[None, :, None], 'mask'),
        )
        by_image = self.reshaped(logits, [-1, windows, attention.num_heads, tokens, tokens])
        return self.reshaped(self.graph.add('Add', by_image, mask), [-1, attention.num_heads, tokens, tokens])

    def _merge(self, merging: nn.Module, x: str, size: Size) -> tuple[str, Size]:
        """Write a patch merging; the rows of two by two places become one."""
        expect(merging, f'{FAMILY}.PatchMerging')
        merged = -(-size[0] // 2), -(-size[1] // 2)
        places = self._gathered(x, into_patches(size), np.zeros(merging.dim, np.float32))
        x = self.norm(merging.norm, self.reshaped(places, [-1, merged[0] * merged[1], 4 * merging.dim]))
        return self.layers.linear(merging.reduction, x), merged

    def _head(self, head: nn.Module, x: str) -> str:
        expect(head, HEAD)
        expect(head.global_pool.pool, POOLING)
        if head.use_conv or head.input_fmt != 'NHWC':
            raise Unsupported(f'classifier head with use_conv={head.use_conv}, input_fmt={head.input_fmt!r}')
        return self.head(head.fc, self.graph.add('ReduceMean', x, self.graph.constant([1]), keepdims=0))

    def _gathered(self, x: str, index: NDArray, pad: NDArray | None = None) -> str:
        """Return tokens of every image in another order, (images, len(index), channels).

        Args:
            index: of tokens; -1 stands for the token `pad`, (channels,).
        """
        is_pad = index < 0
        gathered = self.graph.add('Gather', x, self.graph.constant(np.where(is_pad, 0, index)), axis=1)
        if not is_pad.any():
            return gathered
        values = self.graph.constant(pad[None, None], 'pad')
        return self.graph.add('Where', self.graph.constant(is_pad[None, :, None], 'is_pad'), values, gathered)


def padded(size: Size, window: Size) -> Size:
    """Return the size of whole windows that cover a map."""
    return size[0] + -size[0] % window[0], size[1] + -size[1] % window[1]


def into_windows(size: Size, window: Size, shift: Size) -> NDArray:
    """Return, for every token of the shifted windows, which one of the map it is; -1 for padding."""
    tokens = torch.arange(size[0] * size[1]).view(1, *size, 1)
    shifted = torch.roll(tokens, (-shift[0], -shift[1]), dims=(1, 2))
    return partition(pad_to_windows(shifted, window, PADDING), window).flatten().numpy()


def out_of_windows(size: Size, window: Size, shift: Size) -> NDArray:
    """Return, for every token of the map, which one of the shifted windows it is."""
    whole = padded(size, window)
    windows = torch.arange(whole[0] * whole[1]).view(-1, window[0] * window[1], 1)
    back = merge(windows, window, torch.Size((1, *whole, 1)))[:, : size[0], : size[1]]
    return torch.roll(back, shift, dims=(1, 2)).flatten().numpy()


def into_patches(size: Size) -> NDArray:
    """Return the tokens of two by two places one after the other, as timm merges them: down first, then across."""
    even = pad_to_windows(torch.arange(size[0] * size[1]).view(1, *size, 1), (2, 2), PADDING)
    return partition(even, (2, 2)).view(-1, 2, 2).transpose(1, 2).flatten().numpy()
