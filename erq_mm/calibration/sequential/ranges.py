"""The range of a tensor on the values that the model quantized so far gives it."""

from torch import Tensor

from ...core.clipping import search_tensor_range, tensor_sample
from ...core.levels import search_levels
from ...core.quantizers.base import Quantizer
from ...core.quantizers.levels import LevelsQuantizer
from ...core.quantizers.uniform import UniformQuantizer


def fit_tensor_(quantizer: Quantizer, values: Tensor, margin: float) -> None:
    """Give a per-tensor quantizer the range or the levels of least squared error on `values`, of any shape.

    Of no values, and on other grids, it is left as it is.
    """
    if not values.numel():
        return
    if type(quantizer) is LevelsQuantizer:
        _fit_levels_(quantizer, values, margin)
    elif type(quantizer) is UniformQuantizer:
        quantizer.set_parameters(*search_tensor_range(values, quantizer.spec.bits, margin=margin))


def _fit_levels_(quantizer: LevelsQuantizer, values: Tensor, margin: float) -> None:
    sample = tensor_sample(values)
    one, bits = sample.new_ones(1), quantizer.spec.bits
    levels = search_levels(
        sample, one.expand(len(sample)), one, bits, margin=margin, contains_zero=True, rows=len(sample)
    )
    quantizer.set_table(levels.table)
    quantizer.set_parameters(levels.scale, levels.zero_point)
