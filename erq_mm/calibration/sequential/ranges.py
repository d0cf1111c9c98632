"""The range of a tensor on the values that the model quantized so far gives it."""

from torch import Tensor

from ...core.clipping import search_tensor_range
from ...core.quantizers.base import Quantizer
from ...core.quantizers.uniform import UniformQuantizer


def fit_tensor_(quantizer: Quantizer, values: Tensor, margin: float) -> None:
    """Give a per-tensor quantizer the range of least squared error on `values`, of any shape.

    Of no values, and on other grids, it is left as it is.
    """
    if values.numel() and type(quantizer) is UniformQuantizer:
        quantizer.set_parameters(*search_tensor_range(values, quantizer.spec.bits, margin=margin))
