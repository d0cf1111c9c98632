"""Accumulate Gram sums of every layer's quantized input beside its float input, in one pass of the float model.

Both rows of a pair are the same row before and after the quantizer, so they always belong to the same proposal.
Padded window positions are kept: they act as keys and values, so errors on them reach real tokens.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.statistics import GramStats, RowStats
from ..state import Calibration, SiteState, watch_inputs

DUAL_COLUMNS = 4096  # wider inputs are sampled row by row: their Gram matrix would outweigh the rows


def collect_statistics(calibration: Calibration, conv_rows: int = 16384, sampled_rows: int = 2048) -> None:
    """Fill `stats` of every layer whose input quantizer is fitted.

    Args:
        conv_rows: at most this many im2col rows per call of a convolution, evenly spread.
        sampled_rows: rows kept of layers with more than 4,096 inputs.
    """
    states = [s for s in calibration.layers() if s.quantizers()[0].is_fitted]
    for index, state in enumerate(states):
        weight = state.layer.weight_matrix()  # stays float until the layer is done, which frees the statistics
        if weight.shape[1] > DUAL_COLUMNS:
            state.stats = RowStats(weight, sampled_rows, seed=calibration.seed + index)
        else:
            state.stats = GramStats(weight)
    calibration.run(watch_inputs([s.quantizers()[0] for s in states], [_collector(s, conv_rows) for s in states]))


def _collector(state: SiteState, conv_rows: int) -> Callable[[Tensor], None]:
    layer, quantizer, stats = state.layer, state.quantizers()[0], state.stats

    def collect(x: Tensor) -> None:
        x_q = quantizer.fake_quantize(x)
        step = _stride(x, state) if state.site.kind == 'conv' else 1
        for part, part_q in zip(layer.rows(x), layer.rows(x_q), strict=True):
            stats.add(part[::step], part_q[::step])

    def _stride(x: Tensor, state: SiteState) -> int:
        rows = x.shape[0] * x.shape[2] * x.shape[3] // (layer.stride[0] * layer.stride[1])
        return max(1, -(-rows // conv_rows))

    return torch.no_grad()(collect)
