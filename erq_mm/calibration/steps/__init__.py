"""The steps a recipe can name.

A model step sees the whole calibration (it may run forwards); layer steps in a row are applied layer by layer, so that
one layer's matrices are freed before the next one's are made.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..recipes.base import Recipe
from ..state import Calibration, SiteState
from .collect_statistics import collect_statistics
from .fit_activations import fit_activations
from .reparameterize import reparameterize
from .weights import aqer, fit_weights, gptq, wqer

MODEL_STEPS = {
    'fit_activations': fit_activations,
    'reparameterize': reparameterize,
    'collect_statistics': collect_statistics,
}
LAYER_STEPS = {'aqer': aqer, 'fit_weights': fit_weights, 'gptq': gptq, 'wqer': wqer}

# step -> what it needs of the calibration task ('loss', 'predictions'), given its options
STEP_NEEDS: dict[str, Callable[[Mapping[str, Any]], set[str]]] = {}


def needs(recipe: Recipe) -> set[str]:
    """Return what the steps of a recipe need of the calibration task, of 'loss' and 'predictions'."""
    return set().union(*(STEP_NEEDS[s['type']](s) for s in recipe.steps if s['type'] in STEP_NEEDS))


__all__ = ['LAYER_STEPS', 'MODEL_STEPS', 'STEP_NEEDS', 'Calibration', 'SiteState', 'needs']
