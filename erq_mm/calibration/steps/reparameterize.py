"""Turn channel-wise quantizers behind LayerNorms into per-tensor ones (RepQ-ViT), exactly, also for padded windows."""

import torch
from torch import nn

from ...core.reparameterization import Reparameterization, constant_channels, fold_
from ...core.reparameterization import reparameterize as choose_change
from ...core.scale_search import search_uniform_range
from ..state import Calibration, SiteState


def reparameterize(
    calibration: Calibration, exact_pad: bool = True, integer_zero_point: bool = True, statistic: str = 'mean'
) -> None:
    """Fold the channel-wise ranges into each LayerNorm and the layer, or layers, behind it.

    Layers whose input is fitted per channel but that follow no LayerNorm get a per-tensor fit.

    Args:
        exact_pad: pad windows with the value that stands for zero (False: with zeros, the published behaviour, which
            changes the float model wherever a window reaches beyond the feature map).
        integer_zero_point, statistic: see `core.reparameterization.reparameterize`.
    """
    modules = dict(calibration.model.named_modules())
    for norm, states in _behind_norms(calibration).items():
        change = _reparameterize(modules[norm], states, integer_zero_point=integer_zero_point, statistic=statistic)
        calibration.folded.add(norm)
        windows = states[0].site.windows
        if windows is not None and exact_pad:
            modules[windows].pad_value.copy_(change.pad_value)
    # zeros as padding change the function, as published: there is nothing to prove then
    calibration.unproven = 'reparameterization' if exact_pad else None


def _behind_norms(calibration: Calibration) -> dict[str, list[SiteState]]:
    """Return the layers to be changed by the LayerNorm that they all see; none of a norm that no row has reached."""
    groups: dict[str, list[SiteState]] = {}
    for state in calibration.layers():
        if state.input_specs[0].granularity == 'channel':
            groups.setdefault(state.site.norm, []).append(state)
    return {norm: states for norm, states in groups.items() if not all(s.histograms[0].is_empty for s in states)}


@torch.no_grad()
def _reparameterize(norm: nn.Module, states: list[SiteState], **options: bool | str) -> Reparameterization:
    """Fold the range of a LayerNorm's output into it and the layers behind it, which all have the same input grid."""
    reached = [state for state in states if not state.histograms[0].is_empty]
    spec, histogram = reached[0].input_specs[0], reached[0].histograms[0]
    scale, zero_point = search_uniform_range(histogram, spec, contains_zero=False)
    low, high = histogram.minimum.double(), histogram.maximum.double()
    constant, value = constant_channels(low, high), (low + high) / 2
    change = choose_change(scale, zero_point, spec.max_code, constant=constant, value=value, **options)
    fold_(norm.weight, norm.bias, [(state.layer.weight, state.layer.bias) for state in states], change)
    for state in reached:
        state.layer.input_quantizer.set_parameters(change.scale, change.zero_point)
    return change
