"""One file per grid. A quantizer is a module: float tensor in, fake-quantized tensor out."""

from ..spec import QuantSpec
from .base import Quantizer
from .log_sqrt2 import LogSqrt2Quantizer
from .uniform import UniformQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {'uniform': UniformQuantizer, 'log_sqrt2': LogSqrt2Quantizer}


def build_quantizer(spec: QuantSpec, channels: int = 1) -> Quantizer:
    """Return the unfitted quantizer of a spec, for inputs whose last dimension (of images: second) is `channels`."""
    return QUANTIZERS[spec.grid](spec, channels)


__all__ = ['QUANTIZERS', 'LogSqrt2Quantizer', 'Quantizer', 'UniformQuantizer', 'build_quantizer']
