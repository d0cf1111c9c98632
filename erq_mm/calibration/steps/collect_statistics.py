"""Gram sums of every layer's quantized input beside its float input.

Both rows of a pair are the same row, so they always belong to the same proposal. Padded window positions are kept: they
act as keys and values, so errors on them reach real tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...core.statistics import input_stats
from ..precision import full_precision
from ..sequential.layer_steps import LayerStepFitter
from ..sequential.sequence import LayerSequence
from ..state import Calibration, SiteState, watch_inputs

INPUTS = ('float', 'quantized')


def collect_statistics(
    calibration: Calibration,
    inputs: str = 'float',
    conv_rows: int = 16384,
    sampled_rows: int = 2048,
    rows: int = 8192,
) -> None:
    """Fill `stats` of every layer whose input quantizer is fitted.

    Args:
        inputs: what a layer's quantizer sees: its input in the `float` model, of all layers in one pass; or in the
            model `quantized` so far, layer by layer, as the steps behind this one come to them. Outputs of the float
            model are the target either way.
        conv_rows: at most this many im2col rows per call of a convolution, evenly spread; of float inputs.
        sampled_rows: rows kept of layers with more than 4,096 inputs.
        rows: of a layer that are kept at most, of all images together; of quantized inputs.
    """
    if inputs == 'quantized':
        calibration.visit = lambda apply: _visit_in_sequence(calibration, apply, sampled_rows, rows)
        return
    states = [s for s in calibration.layers() if s.quantizers()[0].is_fitted]
    for index, state in enumerate(states):
        # the weight stays float until the layer is done, which frees the statistics
        state.stats = input_stats(state.layer.weight_matrix(), sampled_rows, calibration.seed + index)
    calibration.run(watch_inputs([s.quantizers()[0] for s in states], [_collector(s, conv_rows) for s in states]))


def check_inputs(options: Mapping[str, Any]) -> set[str]:
    """Raise ValueError for inputs that nobody has; they need nothing of the calibration task."""
    inputs = options.get('inputs', INPUTS[0])
    if inputs not in INPUTS:
        raise ValueError(f'inputs must be one of {INPUTS}, got {inputs!r}')
    rows = options.get('rows', 1)
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f'rows must be a positive integer, got {rows!r}')
    return set()


def _visit_in_sequence(
    calibration: Calibration, apply: Callable[[SiteState], None], sampled_rows: int, rows: int
) -> None:
    with torch.no_grad(), full_precision():
        LayerSequence(calibration, rows).run(LayerStepFitter(apply, sampled_rows, calibration.seed))


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
