"""mmdet's Swin backbone, float or quantized, as ONNX: one image of any height and width."""

import numpy as np
from torch import nn

from ...nn.attention import QuantWindowMSA, ShiftedWindows
from ...nn.recognition import is_exactly
from .attention import AttentionWriter, position_bias
from .layers import LayerWriter
from .supported import Unsupported, expect
from .windows import Extent, WindowWriter, into_patches, merged_extent

SWIN = 'mmdet.models.backbones.swin'
LAYERS = 'mmdet.models.layers.transformer.utils'
FFN = 'mmcv.cnn.bricks.transformer.FFN'
GELU = 'torch.nn.modules.activation.GELU'


class SwinWriter:
    """Writes a `SwinTransformer`.

    Args:
        layers: writes its layers.
    """

    def __init__(self, layers: LayerWriter) -> None:
        self.layers, self.graph = layers, layers.graph

    def backbone(self, backbone: nn.Module, image: str) -> list[str]:
        """Write everything from (1, 3, H, W) to the feature maps, each (1, channels, h, w).

        Raises:
            Unsupported: the backbone has something that this writer does not know.
        """
        expect(backbone, f'{SWIN}.SwinTransformer')
        if backbone.use_abs_pos_embed:
            raise Unsupported('absolute position embedding: its size is that of one image size')
        x, extent = self._embed(backbone.patch_embed, image)
        maps = []
        for index, stage in enumerate(backbone.stages):
            expect(stage, f'{SWIN}.SwinBlockSequence')
            for block in stage.blocks:
                x = self._block(block, x, extent)
            if index in backbone.out_indices:
                out = self.layers.layer_norm(getattr(backbone, f'norm{index}'), x)
                maps.append(self._as_map(out, extent, backbone.num_features[index]))
            if stage.downsample is not None:
                x, extent = self._merge(stage.downsample, x, extent)
        return maps

    def _embed(self, embed: nn.Module, image: str) -> tuple[str, Extent]:
        expect(embed, f'{LAYERS}.PatchEmbed')
        projection = embed.projection
        if tuple(projection.kernel_size) != tuple(projection.stride) or any(projection.padding):
            raise Unsupported(f'patch embedding with stride {projection.stride}, padding {projection.padding}')
        x = self._pad_to_multiple(image, *projection.stride) if embed.adap_padding is not None else image
        x = self.layers.conv(projection, x)
        shape = self.graph.add('Shape', x)
        height, width = (self.graph.add('Gather', shape, self.graph.constant(np.int64(axis))) for axis in (2, 3))
        x = self.graph.add('Transpose', x, perm=[0, 2, 3, 1])
        x = self._reshape(x, [-1, projection.out_channels])
        return (x if embed.norm is None else self.layers.layer_norm(embed.norm, x)), Extent(height, width)

    def _pad_to_multiple(self, image: str, down: int, right: int) -> str:
        """Pad with zeros below and on the right, as mmdet's `AdaptivePadding` in corners."""
        add, number = self.graph.add, self.graph.constant
        size = add('Slice', add('Shape', image), number([2]), number([4]))
        missing = add('Mod', add('Neg', size), number([down, right]))
        return add('Pad', image, add('Concat', number([0, 0, 0, 0, 0, 0]), missing, axis=0), mode='constant')

    def _block(self, block: nn.Module, x: str, extent: Extent) -> str:
        expect(block, f'{SWIN}.SwinBlock')
        mixed = self._attention(block.attn, self.layers.layer_norm(block.norm1, x), extent)
        x = self.graph.add('Add', mixed, x)
        return self.graph.add('Add', self._ffn(block.ffn, self.layers.layer_norm(block.norm2, x)), x)

    def _ffn(self, ffn: nn.Module, x: str) -> str:
        expect(ffn, FFN)
        expect(ffn.gamma2, 'torch.nn.modules.linear.Identity')
        hidden, *rest = ffn.layers
        if not ffn.add_identity or len(rest) != 2 or not is_exactly(hidden[1], GELU):
            raise Unsupported(
                f'feed-forward network {type(ffn).__name__} of {ffn.num_fcs} layers, {type(hidden[1]).__name__}'
            )
        x = self.graph.add('Gelu', self.layers.linear(hidden[0], x), approximate=hidden[1].approximate)
        return self.layers.linear(rest[0], x)

    def _attention(self, attention: nn.Module, x: str, extent: Extent) -> str:
        """Gather rows into windows, attend, and gather them back."""
        if not isinstance(attention, ShiftedWindows):
            expect(attention, f'{SWIN}.ShiftWindowMSA')
        inner, shift = attention.w_msa, attention.shift_size
        if not isinstance(inner, QuantWindowMSA):
            expect(inner, f'{SWIN}.WindowMSA')
        pad = getattr(attention, 'pad_value', None)
        pad = np.zeros(inner.embed_dims, np.float32) if pad is None else pad.detach().cpu().numpy()
        grid = self.layers.input_grid(inner.qkv)
        if grid is not None:  # codes are a quarter of the memory to move
            x, pad = self.layers.codes(x, grid), grid.encode(pad)
        windows = WindowWriter(self.graph, attention.window_size)
        rows = self._gather_padded(x, pad, windows.into_windows(extent, shift), self.layers.names[attention])
        mask = windows.mask(extent, shift) if shift > 0 else None
        codes = self.layers.input_codes(inner.proj, self._windows(inner, rows, mask))
        # in front of the projection, which so has no rows of padding
        codes = self.graph.add('Gather', codes, windows.out_of_windows(extent, shift), axis=0)
        return self.layers.linear_of_codes(inner.proj, codes)

    def _gather_padded(self, x: str, pad: np.ndarray, index: str, name: str) -> str:
        row = self.graph.constant(pad[None], f'{name}.pad')
        return self.graph.add('Gather', self.graph.add('Concat', x, row, axis=0), index, axis=0, name=f'{name}.gather')

    def _windows(self, attention: nn.Module, x: str, mask: str | None) -> str:
        """Write the attention of windows up to its projection, rows (windows * tokens, channels) in and out.

        Args:
            x: codes, if the layer of queries, keys and values is integer.
        """
        width, heads = attention.embed_dims, attention.num_heads
        tokens = attention.window_size[0] * attention.window_size[1]
        writer = AttentionWriter(self.layers)
        writer.note_products(attention)
        query, key, value = writer.heads(attention.qkv, x, tokens, heads, (attention.scale, 1.0, 1.0))
        logits = writer.logits(query, key)
        bias = self.graph.constant(position_bias(attention)[None], f'{self.layers.names[attention]}.position_bias')
        logits = self.graph.add('Add', logits, bias)
        if mask is not None:  # an operand of its own: added to the bias it would be as large as all logits
            logits = self.graph.add('Add', logits, mask)
        return writer.mixed(logits, value, [-1, width])

    def _merge(self, merging: nn.Module, x: str, extent: Extent) -> tuple[str, Extent]:
        expect(merging, f'{LAYERS}.PatchMerging')
        sampler = merging.sampler
        step = sampler.kernel_size[0]
        if {*sampler.kernel_size, *sampler.stride} != {step} or {*sampler.padding} != {0} or {*sampler.dilation} != {1}:
            raise Unsupported(f'patch merging by {sampler}')
        channels, places = merging.in_channels, step * step
        rows = self._gather_padded(
            x, np.zeros(channels, np.float32), into_patches(self.graph, extent, step), self.layers.names[merging]
        )
        x = self._reshape(rows, [-1, places * channels])
        # nn.Unfold has the places of a channel side by side, rows of a map the channels of a place
        columns = np.arange(places * channels).reshape(channels, places).T.reshape(-1)
        x = x if merging.norm is None else self.layers.layer_norm(merging.norm, x, columns)
        return self.layers.linear(merging.reduction, x, columns=columns), merged_extent(self.graph, extent, step)

    def _as_map(self, x: str, extent: Extent, channels: int) -> str:
        """(H W, channels) -> (1, channels, H, W)."""
        sizes = [self._reshape(size, [1]) for size in (extent.height, extent.width)]
        shape = self.graph.add('Concat', self.graph.constant([1]), *sizes, self.graph.constant([channels]), axis=0)
        return self.graph.add('Transpose', self.graph.add('Reshape', x, shape), perm=[0, 3, 1, 2])

    def _reshape(self, value: str, shape: list[int]) -> str:
        return self.graph.add('Reshape', value, self.graph.constant(shape, 'shape'))
