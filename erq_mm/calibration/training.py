"""What stands in a layer or a quantizer while it is trained, and is taken out again."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.utils import parametrize

from ..core.quantizers import Quantizer
from ..core.quantizers.learning import Learner
from ..core.random_source import RandomSource


@contextmanager
def parametrized(layer: nn.Module, parametrization: nn.Module) -> Iterator[None]:
    """Put a parametrization before a layer's weight while the block runs; afterwards the weight is what it was."""
    parametrize.register_parametrization(layer, 'weight', parametrization)
    try:
        yield
    finally:
        parametrize.remove_parametrizations(layer, 'weight', leave_parametrized=False)
        if layer.bias is not None:  # behind the weight again, as state dicts of fresh models have it
            layer.register_parameter('bias', layer._parameters.pop('bias'))


@contextmanager
def learned(quantizer: Quantizer, learn_scale: bool, source: RandomSource | None = None) -> Iterator[Learner]:
    """Let gradients pass through a quantizer, and reach its scale if that may be learned, while the block runs.

    Args:
        source: of the dropping, if there is to be any.
    """
    quantizer.learner = Learner(quantizer, learn_scale and quantizer.learns_scale, 0.0, source)
    try:
        yield quantizer.learner
    finally:
        quantizer.learner = None
