"""The range of a tensor on the values that the model quantized so far gives it."""

import torch
from torch import Tensor

from ...core.clipping import search_clipped_range
from ...core.quantizers.uniform import UniformQuantizer


def fit_tensor_(quantizer: UniformQuantizer, values: Tensor, margin: float, limit: int = 2**18) -> None:
    """Give a per-tensor quantizer the range of least squared error on `values`, of any shape; zero stays on it."""
    values = values.reshape(-1)
    if not len(values):
        return
    low, high = values.aminmax()
    step = -(-len(values) // limit)
    sample = torch.cat([values[::step], torch.stack([low, high])])[:, None]
    ones = sample.new_ones(len(sample))
    scale, zero_point = search_clipped_range(
        sample, ones, quantizer.spec.bits, margin=margin, contains_zero=True, rows=len(sample)
    )
    quantizer.set_parameters(scale, zero_point)
