"""Quantized layers and the swap that puts them into a model; plain torch, no mm* package."""

from .attention import QuantWindowMSA, ShiftedWindows
from .layers import QuantConv2d, QuantLayer, QuantLinear
from .matmul import QuantMatMul
from .multihead import QuantMultiheadAttention
from .self_attention import QuantAttention
from .shifted_block import ShiftedWindowBlock

__all__ = [
    'QuantAttention',
    'QuantConv2d',
    'QuantLayer',
    'QuantLinear',
    'QuantMatMul',
    'QuantMultiheadAttention',
    'QuantWindowMSA',
    'ShiftedWindowBlock',
    'ShiftedWindows',
]
