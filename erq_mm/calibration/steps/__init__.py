"""The steps a recipe can name.

A model step sees the whole calibration (it may run forwards); layer steps in a row are applied layer by layer, so that
one layer's matrices are freed before the next one's are made.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ..recipes.base import Recipe
from ..reconstruction.options import ReconstructionOptions
from ..sequential.options import SequentialOptions
from ..state import Calibration, SiteState
from .collect_statistics import collect_statistics
from .fit_activations import fit_activations
from .hessian_search import SearchOptions, hessian_search
from .reconstruct import reconstruct
from .reparameterize import reparameterize
from .search_grids import check_options as check_search
from .search_grids import search_grids
from .sequential import sequential
from .weights import aqer, check_corrections, fit_weights, gptq, wqer

MODEL_STEPS = {
    'fit_activations': fit_activations,
    'reparameterize': reparameterize,
    'search_grids': search_grids,
    'hessian_search': hessian_search,
    'collect_statistics': collect_statistics,
    'reconstruct': reconstruct,
    'sequential': sequential,
}
LAYER_STEPS = {'aqer': aqer, 'fit_weights': fit_weights, 'gptq': gptq, 'wqer': wqer}

PASSES = ('fit_activations', 'collect_statistics')  # begin with a pass of all images, which proves the same function
FUNCTION_STEPS = ('reparameterize',)  # change the model and claim that its function stays
WEIGHT_KEEPING_STEPS = ('fit_activations',)  # change no parameter of the model
# step -> what it needs of the calibration task ('loss', 'predictions'); raises ValueError for options it would refuse
STEP_NEEDS: dict[str, Callable[[Mapping[str, Any]], set[str]]] = {
    'aqer': check_corrections,
    'wqer': check_corrections,
    'reconstruct': lambda options: ReconstructionOptions(**options).needs(),
    'search_grids': lambda options: check_search(**options),
    'hessian_search': lambda options: SearchOptions(**options).needs(),
    'sequential': lambda options: SequentialOptions(**options) and set(),
}
# put the weights on a grid: a recipe has exactly one of them
WEIGHT_STEPS = ('fit_weights', 'hessian_search', 'reconstruct', 'sequential')
OPTION_CLASSES = {  # of steps with many options
    'hessian_search': SearchOptions, 'reconstruct': ReconstructionOptions, 'sequential': SequentialOptions,
}  # fmt: skip


def step_options(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return a step without its type."""
    return {key: value for key, value in step.items() if key != 'type'}


def option_names(name: str) -> list[str]:
    """Return the options a step takes."""
    if name in OPTION_CLASSES:
        return [field.name for field in fields(OPTION_CLASSES[name])]
    return list(inspect.signature((MODEL_STEPS | LAYER_STEPS)[name]).parameters)[1:]


def needs(recipe: Recipe) -> set[str]:
    """Return what the steps of a recipe need of the calibration task, of 'loss' and 'predictions'."""
    return set().union(*(STEP_NEEDS[s['type']](step_options(s)) for s in recipe.steps if s['type'] in STEP_NEEDS))


__all__ = [
    'FUNCTION_STEPS', 'LAYER_STEPS', 'MODEL_STEPS', 'PASSES', 'STEP_NEEDS', 'WEIGHT_KEEPING_STEPS', 'Calibration',
    'SiteState', 'needs',
]  # fmt: skip
