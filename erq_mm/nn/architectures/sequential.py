"""A bare `nn.Sequential`, read pairwise: LayerNorm or GELU before a Linear."""

from torch import nn

from ..recognition import is_exactly
from .base import GELU, LAYER_NORM, Input, Part

SEQUENTIAL = 'torch.nn.modules.container.Sequential'


def read_sequential(module: nn.Module) -> Part | None:
    """Return what the layers of an `nn.Sequential` receive; None for any other module."""
    if not is_exactly(module, SEQUENTIAL):
        return None
    children = list(module._modules.items())
    inputs = {}
    for (before_name, before), (name, layer) in zip(children, children[1:], strict=False):
        if not isinstance(layer, nn.Linear):
            continue
        if is_exactly(before, LAYER_NORM):
            inputs[name] = Input('post_norm', before_name)
        elif is_exactly(before, GELU):
            inputs[name] = Input('post_gelu')
    return Part(SEQUENTIAL, inputs=inputs)
