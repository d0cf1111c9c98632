"""Quantized detectors as ONNX graphs with QuantizeLinear and DequantizeLinear, of any image size."""

from .account import Account, LayerRecord
from .codes import AsymmetricRows
from .parts import Part, write_parts
from .supported import Unsupported

__all__ = ['Account', 'AsymmetricRows', 'LayerRecord', 'Part', 'Unsupported', 'write_parts']
