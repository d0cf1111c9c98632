"""The closed-form steps on one layer: correct it for its input's error, fit the weight's grid, quantize it."""

from collections.abc import Mapping
from typing import Any

import torch

from ...core import gptq as gptq_core
from ...core.activation_error import correct_activation_error, corrected_mse
from ...core.ridge import damping
from ...core.rounding import RoundingOptions
from ...core.weight_error import PROXIES, reduce_weight_error
from ...core.weight_grid import fit_weight_grid, round_to_nearest
from ..state import SiteState


def _has_rows(state: SiteState) -> bool:
    return state.stats is not None and state.stats.count > 0


def aqer(state: SiteState, lam_mode: str = 'relative', lam: float = 0.1) -> None:
    """Reduce the error of the quantized input (ERQ, Eq. 5 to 8); the patch embedding is skipped, as in the paper."""
    if not _has_rows(state) or state.site.roles == ('image',):
        return
    system = state.system(lam_mode, lam)
    change = correct_activation_error(state.stats, system)
    state.weight += change[:, :-1]
    if state.bias is not None:
        state.bias += change[:, -1]
        state.report.output_mse['aqer'] = corrected_mse(state.stats, change, system.lam)
    else:  # the last entry of the solution is dropped
        state.record('aqer')


def fit_weights(state: SiteState) -> None:
    """Choose the grid of the weight, and round to nearest."""
    state.quantized = round_to_nearest(state.weight, state.bias, fit_weight_grid(state.weight, state.layer.weight_spec))


def wqer(
    state: SiteState,
    ridge: bool = True,
    rounding: str | None = 'greedy',
    k: int = 1,
    iterations: int = 100,
    proxy: str = 'compensated',
    lam_mode: str = 'relative',
    lam: float = 0.1,
) -> None:
    """Reduce the error of the quantized weight (ERQ, Algorithm 1), on the grid of `fit_weights`."""
    if not _has_rows(state):
        return
    options = None if rounding is None else RoundingOptions(rounding, k, iterations)
    quantized = reduce_weight_error(
        state.quantized,
        state.weight,
        state.system(lam_mode, lam),
        state.stats.count,
        rounding=options,
        ridge=ridge,
        proxy=proxy,
    )
    state.quantized = quantized
    state.record('wqer')


def check_corrections(options: Mapping[str, Any]) -> set[str]:
    """Raise ValueError for values that `aqer` or `wqer` would refuse; they need nothing of the calibration task."""
    damping(options.get('lam_mode', 'relative'), options.get('lam', 0.0), 1.0, 1)
    if options.get('rounding') is not None:
        RoundingOptions(options['rounding'], options.get('k', 1), options.get('iterations', 100))
    if options.get('proxy', PROXIES[0]) not in PROXIES:
        raise ValueError(f'proxy must be one of {PROXIES}, got {options["proxy"]!r}')
    return set()


def gptq(state: SiteState, damping: float = 0.01, act_order: bool = False) -> None:
    """Quantize column by column with compensation (GPTQ), on the grid of `fit_weights`."""
    if not _has_rows(state):
        return
    state.quantized = gptq_core.gptq(
        state.quantized, state.weight, state.stats.input_gram(), damping=damping, act_order=act_order
    )
    state.record('gptq')


def check_weight(state: SiteState) -> None:
    """Raise FloatingPointError, naming the layer, if a weight is NaN or infinite."""
    layer = state.layer
    for name, tensor in (('weight', layer.weight), ('bias', layer.bias)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise FloatingPointError(f'NaN or infinity in {state.name}.{name}: check the checkpoint')
