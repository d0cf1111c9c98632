"""Sequential error reduction, the project's own recipe."""

from dataclasses import fields, replace
from typing import Any

from ..sequential.options import SequentialOptions
from .base import Recipe
from .closed_form import REPQ_ACTIVATIONS, REPQ_AT_8_BITS

GRIDS = ('own', 'published')
TUNING = 100
OWN_ACTIVATIONS = {
    'post_norm': {'granularity': 'channel'},
    'linear_input': {'grid': 'channel_uniform'},
    'post_gelu': {'grid': 'channel_uniform'},
    'post_softmax': {'grid': 'log_normalised'},
}


def serq(grids: str = 'own', views: int = 8, **options: Any) -> Recipe:
    """Sequential error reduction: every layer is corrected for what the quantized layers before it do to its input.

    Args:
        grids: `own`, a grid of every channel for the inputs of all linear layers and a normalised logarithmic one for
            the softmax; or `published`, those of RepQ-ViT and ERQ.
        views: with fewer images, altered copies of them make up for what is missing.
        options: fields of `SequentialOptions`.
    """
    if grids not in GRIDS:
        raise ValueError(f'grids must be one of {GRIDS}, got {grids!r}')
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
            "serq balance=True needs grids='own': it moves the values of an attention, which its rows give back only "
            'if they sum to one'
        )
    activations, at_8_bits = (OWN_ACTIVATIONS, {}) if grids == 'own' else (REPQ_ACTIVATIONS, REPQ_AT_8_BITS)
    # its own ranges come of rows, in the end: histograms are for what has none
    first = {'type': 'fit_activations'} | ({'every': 16} if grids == 'own' and step.get('clipping', True) else {})
    return Recipe('serq', steps=(first, step), activations=activations, at_8_bits=at_8_bits, views=views)


def serq_tuned(tuning: int = TUNING, **options: Any) -> Recipe:
    """`serq`, and a short training of the scales, LayerNorms and biases of every block once its layers are fitted.

    Args:
        tuning: steps of training of every block, each on one image.
        options: as of `serq`.
    """
    return replace(serq(tuning=tuning, **options), name='serq_tuned')
