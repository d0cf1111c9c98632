"""Sequential error reduction, the project's own recipe."""

from dataclasses import fields, replace
from typing import Any

from ...core.spec import WEIGHT_PERCENTILES
from ..sequential.options import SequentialOptions
from .base import Recipe
from .closed_form import REPQ_ACTIVATIONS, REPQ_AT_8_BITS

TUNING = 100
UNIFORM_ACTIVATIONS = {
    'post_norm': {'granularity': 'channel'},
    'linear_input': {'grid': 'channel_uniform'},
    'post_gelu': {'grid': 'channel_uniform'},
    'conv_input': {'grid': 'channel_uniform'},
    'post_softmax': {'grid': 'log_normalised'},
}
OWN_ACTIVATIONS = UNIFORM_ACTIVATIONS | {
    'post_norm': {'granularity': 'channel', 'grid': 'levels'},
    'linear_input': {'grid': 'channel_levels'},
    'post_gelu': {'grid': 'channel_levels'},
    'conv_input': {'grid': 'channel_levels'},
}
GRIDS = {
    'own': (OWN_ACTIVATIONS, {}),
    'uniform': (UNIFORM_ACTIVATIONS, {}),
    'published': (REPQ_ACTIVATIONS, REPQ_AT_8_BITS),
}


def serq(grids: str = 'own', views: int = 8, weight_levels: bool = True, **options: Any) -> Recipe:
    """Sequential error reduction: every layer is corrected for what the quantized layers before it do to its input.

    Args:
        grids: `own`, for the inputs of all layers a grid of every channel whose levels a table of the layer chooses
            (up to 5 bits), and a normalised logarithmic one for the softmax; `uniform`, the same with evenly spaced
            levels; or `published`, those of RepQ-ViT and ERQ.
        views: with fewer images, altered copies of them make up for what is missing.
        weight_levels: choose the levels of weights by a table of the layer, too (up to 4 bits), on `own` grids.
        options: fields of `SequentialOptions`.
    """
    if grids not in GRIDS:
        raise ValueError(f'grids must be one of {tuple(GRIDS)}, got {grids!r}')
    unknown = sorted(set(options) - {field.name for field in fields(SequentialOptions)})
    if unknown:
        raise ValueError(f'serq has no option {unknown}')
    step = (
        {'type': 'sequential'}
        | ({'clipping': False, 'margin': 1.0, 'balance': False} if grids == 'published' else {})
        | options
    )
    if grids == 'published' and step['balance']:
        raise ValueError(
            "serq balance=True needs grids='own' or 'uniform': it moves the values of an attention, which its rows "
            'give back only if they sum to one'
        )
    activations, at_8_bits = GRIDS[grids]
    # its own ranges come of rows, in the end: histograms are for what has none
    first = {'type': 'fit_activations'} | ({'every': 16} if grids != 'published' and step.get('clipping', True) else {})
    weight = {'percentiles': WEIGHT_PERCENTILES} | ({'grid': 'levels'} if weight_levels and grids == 'own' else {})
    return Recipe('serq', (first, step), activations, at_8_bits, weight, views=views)


def serq_tuned(tuning: int = TUNING, **options: Any) -> Recipe:
    """`serq`, and a short training of the scales, LayerNorms and biases of every block once its layers are fitted.

    Args:
        tuning: steps of training of every block, each on one image.
        options: as of `serq`.
    """
    return replace(serq(tuning=tuning, **options), name='serq_tuned')
