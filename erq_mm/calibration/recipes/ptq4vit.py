"""PTQ4ViT (ECCV 2022): twin uniform grids behind softmax and GELU, symmetric ones elsewhere, Hessian-guided scales."""

from dataclasses import replace
from typing import Any

from ...core.spec import ACTIVATION_PERCENTILES, MIN_MAX
from ...nn.structure import ROLES
from .base import Recipe


def ptq4vit(**options: Any) -> Recipe:
    """PTQ4ViT as published: one symmetric scale per weight, three for qkv; written from the paper's equations.

    The image keeps its uniform 8 bits (published: float), and the weight of the patch embedding has a scale per row.
    Published with 32 images; works with one. Needs the model's loss, as gradients of the divergence that the published
    code uses vanish at the float model.

    Args:
        options: of the step `hessian_search` (fields of `SearchOptions`): candidates, alpha, beta, rounds, rows, pairs,
            metric.
    """
    activations = {role: {'grid': 'symmetric', 'percentiles': MIN_MAX} for role in ROLES}
    activations['image'] = {'percentiles': ACTIVATION_PERCENTILES}
    activations['post_softmax'] = {'grid': 'twin_softmax'}
    activations['post_gelu'] = {'grid': 'twin_gelu', 'percentiles': MIN_MAX}
    return Recipe(
        'ptq4vit',
        steps=({'type': 'fit_activations'}, {'type': 'hessian_search', **options}),
        activations=activations,
        weight={'grid': 'symmetric', 'variant': 'layer'},
        weights={'image': {'variant': ''}},
        qkv_weight={'variant': 'thirds'},
    )


def ptq4vit_channelwise(**options: Any) -> Recipe:
    """A variant of PTQ4ViT that was not published: one symmetric scale per output row of every weight.

    Not to be compared with the published figures.

    Args:
        options: see `ptq4vit`.
    """
    per_row = {'grid': 'symmetric', 'variant': ''}
    note = 'ptq4vit_channelwise: a variant; published are one scale per weight and three for qkv'
    return replace(ptq4vit(**options), name='ptq4vit_channelwise', weight=per_row, qkv_weight={}, note=note)
