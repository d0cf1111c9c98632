"""What timm's transformers share: patch embedding, feed-forward network, and what scales or drops a branch."""

from torch import nn

from ...nn.architectures.base import GELU, IDENTITY
from ...nn.recognition import is_exactly
from .layers import LayerWriter
from .supported import Unsupported, expect

LAYERS = 'timm.layers'
PATCH_EMBED = f'{LAYERS}.patch_embed.PatchEmbed'
MLP = f'{LAYERS}.mlp.Mlp'
LAYER_SCALE = f'{LAYERS}.layer_scale.LayerScale'
NOTHING_IN_EVAL = (IDENTITY, f'{LAYERS}.drop.DropPath', f'{LAYERS}.patch_dropout.PatchDropout')


class TimmWriter:
    """Writes the parts of timm's transformers on (images, tokens, channels), for one image size.

    No layer's output is reshaped with its channels kept: OpenVINO 2026.4 moves the scales of an integer layer behind
    such a reshape, and takes those of other channels.

    Args:
        layers: writes their layers.
    """

    def __init__(self, layers: LayerWriter) -> None:
        self.layers, self.graph = layers, layers.graph

    def patches(self, embed: nn.Module, image: str) -> str:
        """Write (images, 3, H, W) -> (images, patches, channels), row by row of the image."""
        expect(embed, PATCH_EMBED)
        if any(side % step for side, step in zip(embed.img_size, embed.patch_size, strict=True)):
            raise Unsupported(f'images of {embed.img_size} in patches of {embed.patch_size}: the last ones are cut')
        x = self.graph.add('Transpose', self.layers.conv(embed.proj, image), perm=[0, 2, 3, 1])
        return self.norm(embed.norm, self.reshaped(x, [-1, embed.num_patches, embed.proj.out_channels]))

    def norm(self, norm: nn.Module, x: str) -> str:
        """Write a LayerNorm, or nothing where the option is off."""
        return x if is_exactly(norm, IDENTITY) else self.layers.layer_norm(norm, x)

    def branch(self, scale: nn.Module, drop: nn.Module, x: str) -> str:
        """Write what stands between a branch and its sum: LayerScale; drop path does nothing in evaluation."""
        expect(drop, NOTHING_IN_EVAL)
        if is_exactly(scale, IDENTITY):
            return x
        expect(scale, LAYER_SCALE)
        gain = self.graph.constant(scale.gamma.detach().cpu().numpy(), f'{self.layers.names[scale]}.gamma')
        return self.graph.add('Mul', x, gain)

    def mlp(self, mlp: nn.Module, x: str) -> str:
        """Write a feed-forward network."""
        expect(mlp, MLP)
        expect(mlp.act, GELU)
        hidden = self.graph.add('Gelu', self.layers.linear(mlp.fc1, x), approximate=mlp.act.approximate)
        return self.layers.linear(mlp.fc2, self.norm(mlp.norm, hidden))

    def head(self, head: nn.Module, x: str) -> str:
        """Write the last layer, (images, features) -> (images, classes), or nothing where there are no classes."""
        return x if is_exactly(head, IDENTITY) else self.layers.linear(head, x)

    def reshaped(self, x: str, shape: list[int]) -> str:
        """Return `x` in another shape; -1 is what is left."""
        return self.graph.add('Reshape', x, self.graph.constant(shape, 'shape'))
