"""Turn channel-wise quantizers behind LayerNorms into per-tensor ones (RepQ-ViT), exactly, also for padded windows."""

import torch
from torch import nn

from ...core.reparameterization import constant_channels, fold_
from ...core.reparameterization import reparameterize as choose_change
from ...core.scale_search import search_uniform_range
from ..state import Calibration, SiteState


def reparameterize(
    calibration: Calibration, exact_pad: bool = True, integer_zero_point: bool = True, statistic: str = 'mean'
) -> None:
    """Fold the channel-wise ranges into each LayerNorm and the layer behind it.

    Layers whose input is fitted per channel but that follow no LayerNorm get a per-tensor fit.

    Args:
        exact_pad: pad windows with the value that stands for zero (False: with zeros, the published behaviour, which
            changes the float model wherever a window reaches beyond the feature map).
        integer_zero_point, statistic: see `core.reparameterization.reparameterize`.
    """
    modules = dict(calibration.model.named_modules())
    for state in calibration.layers():
        if state.input_specs[0].granularity != 'channel' or state.histograms[0].is_empty:
            continue
        _reparameterize_site(state, modules, exact_pad, integer_zero_point=integer_zero_point, statistic=statistic)
        calibration.folded.add(state.site.norm)
    # zeros as padding change the function, as published: there is nothing to prove then
    calibration.unproven = 'reparameterization' if exact_pad else None


@torch.no_grad()
def _reparameterize_site(
    state: SiteState, modules: dict[str, nn.Module], exact_pad: bool, **options: bool | str
) -> None:
    spec, site, layer = state.input_specs[0], state.site, state.layer
    scale, zero_point = search_uniform_range(state.histograms[0], spec, contains_zero=False)
    low, high = state.histograms[0].minimum.double(), state.histograms[0].maximum.double()
    constant, value = constant_channels(low, high), (low + high) / 2
    change = choose_change(scale, zero_point, spec.max_code, constant=constant, value=value, **options)
    norm = modules[site.norm]
    fold_(norm.weight, norm.bias, layer.weight, layer.bias, change)
    if site.windows is not None and exact_pad:
        pad_value = modules[site.windows].pad_value
        pad_value.copy_(change.pad_value.to(pad_value.dtype))
    layer.input_quantizer.set_parameters(change.scale, change.zero_point)
