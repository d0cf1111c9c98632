"""One file per grid. A quantizer is a module: float tensor in, fake-quantized tensor out."""

import torch

from ..spec import QuantSpec
from .adaptive_log import AdaptiveLogGeluQuantizer, AdaptiveLogQuantizer
from .base import Quantizer
from .channel_uniform import ChannelUniformQuantizer
from .levels import ChannelLevelsQuantizer, LevelsQuantizer
from .line_searched import LineSearchedQuantizer
from .log2 import Log2Quantizer
from .log_normalised import LogNormalisedQuantizer
from .log_sqrt2 import LogSqrt2Quantizer
from .pixels import PixelQuantizer
from .power_of_two_factor import PowerOfTwoFactorQuantizer
from .searched import SearchedQuantizer
from .symmetric import SymmetricQuantizer
from .tan import TanQuantizer
from .twin_gelu import TwinGeluQuantizer
from .twin_softmax import TwinSoftmaxQuantizer
from .uniform import UniformQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {
    'uniform': UniformQuantizer,
    'symmetric': SymmetricQuantizer,
    'log_sqrt2': LogSqrt2Quantizer,
    'log2': Log2Quantizer,
    'adaptive_log': AdaptiveLogQuantizer,
    'adaptive_log_gelu': AdaptiveLogGeluQuantizer,
    'tan': TanQuantizer,
    'twin_softmax': TwinSoftmaxQuantizer,
    'twin_gelu': TwinGeluQuantizer,
    'power_of_two_factor': PowerOfTwoFactorQuantizer,
    'pixels': PixelQuantizer,
    'channel_uniform': ChannelUniformQuantizer,
    'levels': LevelsQuantizer,
    'channel_levels': ChannelLevelsQuantizer,
    'log_normalised': LogNormalisedQuantizer,
}


def build_quantizer(spec: QuantSpec, channels: int = 1, device: torch.device | str | None = None) -> Quantizer:
    """Return the unfitted quantizer of a spec, for inputs whose last dimension (of images: second) is `channels`.

    Args:
        device: of its inputs; None is the CPU.
    """
    return QUANTIZERS[spec.grid](spec, channels).to(device)


__all__ = [
    'QUANTIZERS',
    'LineSearchedQuantizer',
    'LogSqrt2Quantizer',
    'PixelQuantizer',
    'Quantizer',
    'SearchedQuantizer',
    'UniformQuantizer',
    'build_quantizer',
]
