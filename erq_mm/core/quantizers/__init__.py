"""One file per grid. A quantizer is a module: float tensor in, fake-quantized tensor out."""

from ..spec import QuantSpec
from .base import Quantizer
from .log_sqrt2 import LogSqrt2Quantizer
from .uniform import UniformQuantizer

QUANTIZERS: dict[str, type[Quantizer]] = {'uniform': UniformQuantizer, 'log_sqrt2': LogSqrt2Quantizer}


def build_quantizer(spec: QuantSpec) -> Quantizer:
    """Return the unfitted quantizer of a spec."""
    return QUANTIZERS[spec.grid](spec)


__all__ = ['QUANTIZERS', 'LogSqrt2Quantizer', 'Quantizer', 'UniformQuantizer', 'build_quantizer']
