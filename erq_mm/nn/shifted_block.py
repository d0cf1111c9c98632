"""A block of timm's Swin, whose windows are padded by a chosen value; reads nothing but attributes of timm's."""

import torch
from torch import Tensor, nn

from .attention import QuantWindowMSA, region_mask
from .windows import PaddedWindows, merge, pad_to_windows, partition, region_numbers


class ShiftedWindowBlock(PaddedWindows):
    """Replaces timm's `SwinTransformerBlock`: x + attention(norm1(x)), then x + mlp(norm2(x)).

    Unlike mmdet's, it shifts the feature map first and pads it afterwards. Windows, shift and masks are those of the
    feature map at hand, so that sizes may change from call to call; timm's masks of a fixed size are the same.

    Args:
        block: timm's, whose children it takes over under their names.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__(block.dim, block.attn.relative_position_bias_table)
        self.window_size, self.shift_size = tuple(block.window_size), tuple(block.shift_size)
        self.norm1, self.attn, self.drop_path1 = block.norm1, block.attn, block.drop_path1
        self.norm2, self.mlp, self.drop_path2 = block.norm2, block.mlp, block.drop_path2
        self.train(block.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map (images, height, width, channels) to the same shape."""
        x = x + self.drop_path1(self._attend(self.norm1(x)))
        tokens = x.flatten(1, 2)
        return (tokens + self.drop_path2(self.mlp(self.norm2(tokens)))).view_as(x)

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        window, (down, across) = self.window_size, self.shift_size
        padded = self._shifted(x, self.pad_value)
        x = merge(self._attend_in_windows(partition(padded, window), padded), window, padded.shape)[:, :height, :width]
        return torch.roll(x, (down, across), dims=(1, 2)) if down or across else x

    def arrange(self, tokens: Tensor, fill: Tensor) -> Tensor:
        """Return tokens, (images, height, width, any), in the order in which the attention sees them.

        Args:
            fill: what stands in padded places, (any,).
        """
        return partition(self._shifted(tokens, fill), self.window_size)

    def _shifted(self, x: Tensor, fill: Tensor) -> Tensor:
        """Return the feature map, shifted and then padded to whole windows."""
        down, across = self.shift_size
        x = torch.roll(x, (-down, -across), dims=(1, 2)) if down or across else x
        return pad_to_windows(x, self.window_size, fill)

    def _attend_in_windows(self, windows: Tensor, padded: Tensor) -> Tensor:
        """Attend within windows of a padded map; the attention itself is timm's own if it has been left float."""
        regions = None
        if any(self.shift_size):
            regions = region_numbers(*padded.shape[1:3], self.window_size, self.shift_size, padded.device)
        if isinstance(self.attn, QuantWindowMSA):
            return self.attn(windows, regions=regions)
        return self.attn(windows, mask=None if regions is None else region_mask(regions).to(windows))
