"""Quantized layers and the swap that puts them into a model; plain torch, no mm* package."""

from .attention import QuantWindowMSA, ShiftedWindows
from .layers import QuantConv2d, QuantLayer, QuantLinear
from .matmul import QuantMatMul
from .multihead import QuantMultiheadAttention

__all__ = [
    'QuantConv2d',
    'QuantLayer',
    'QuantLinear',
    'QuantMatMul',
    'QuantMultiheadAttention',
    'QuantWindowMSA',
    'ShiftedWindows',
]
