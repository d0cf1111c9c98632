"""The classifiers that can be written: type of the network -> its writer. A family is one file and one entry here."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ...nn.recognition import is_exactly
from .layers import LayerWriter
from .timm_swin import SwinTransformerWriter
from .timm_vit import VisionTransformerWriter

WRITERS = (VisionTransformerWriter, SwinTransformerWriter)
Write = Callable[[LayerWriter], None]


def network_writer(network: nn.Module) -> Callable[[LayerWriter], Any] | None:
    """Return the writer of exactly this type of network, or None."""
    return next((writer for writer in WRITERS if is_exactly(network, writer.types)), None)


def find_classifier(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Return name and module of the outermost network of a known type, or None."""
    found: Iterator = ((name, module) for name, module in model.named_modules() if network_writer(module) is not None)
    return next(found, None)


def write_classifier(layers: LayerWriter, network: nn.Module) -> None:
    """Write a whole classifier: `image`, normalised, (images, 3, H, W) -> `logits`, (images, classes)."""
    embed = network.patch_embed
    image = layers.graph.input('image', ('images', embed.proj.in_channels, *embed.img_size))
    logits = network_writer(network)(layers).network(network, image)
    layers.graph.output(logits, 'logits', ('images', network.num_classes or None))
