"""The steps a recipe can name, and all that others have to know about them: a new one is a file and an entry here.

A model step sees the whole calibration (it may run forwards); layer steps in a row are applied layer by layer, so that
one layer's matrices are freed before the next one's are made.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..recipes.base import Recipe
from ..reconstruction.options import ReconstructionOptions
from ..sequential.options import SequentialOptions
from ..state import Calibration, SiteState
from .collect_statistics import check_inputs, collect_statistics
from .fit_activations import fit_activations
from .hessian_search import SearchOptions, hessian_search
from .reconstruct import reconstruct
from .reparameterize import reparameterize
from .search_grids import check_options as check_search
from .search_grids import search_grids
from .sequential import sequential
from .weights import aqer, check_corrections, fit_weights, gptq, wqer


@dataclass(frozen=True)
class Step:
    """A step, and what the pipeline and the checks have to know about it.

    Attributes:
        run: called with the calibration, or with the state of one layer, and the options.
        of_layers: whether it works layer by layer.
        options: class of the options, where there are many; else they are the arguments of `run`.
        check: raises ValueError for options that contradict each other, and returns what the step needs of the
            calibration task, of 'loss' and 'predictions'.
        after: steps that have to stand before it.
        begins_with_pass: of all images, which proves the same function.
        claims_function: whether it changes the model and claims that its function stays.
        keeps_weights: whether it changes no parameter of the model.
        makes_codes: whether it puts the weights on their grids; a recipe has exactly one such step.
        folds_channels: whether it makes one grid out of ranges that are fitted per channel.
    """

    run: Callable[..., Any]
    of_layers: bool = False
    options: type | None = None
    check: Callable[[Mapping[str, Any]], set[str]] = lambda _: set()
    after: tuple[str, ...] = ()
    begins_with_pass: bool = False
    claims_function: bool = False
    keeps_weights: bool = False
    makes_codes: bool = False
    folds_channels: bool = False

    def option_names(self) -> list[str]:
        """Return the options the step takes."""
        if self.options is not None:
            return [field.name for field in fields(self.options)]
        return list(inspect.signature(self.run).parameters)[1:]


RANGES, SUMS = ('fit_activations',), ('collect_statistics',)
STEPS = {
    'fit_activations': Step(fit_activations, begins_with_pass=True, keeps_weights=True),
    'reparameterize': Step(reparameterize, claims_function=True, folds_channels=True),
    'search_grids': Step(search_grids, check=lambda options: check_search(**options), after=RANGES),
    'hessian_search': Step(
        hessian_search,
        options=SearchOptions,
        check=lambda options: SearchOptions(**options).needs(),
        after=RANGES,
        makes_codes=True,
    ),
    'collect_statistics': Step(collect_statistics, check=check_inputs, begins_with_pass=True),
    'reconstruct': Step(
        reconstruct,
        options=ReconstructionOptions,
        check=lambda options: ReconstructionOptions(**options).needs(),
        after=RANGES,
        makes_codes=True,
    ),
    'sequential': Step(
        sequential,
        options=SequentialOptions,
        check=lambda options: SequentialOptions(**options) and set(),
        after=RANGES,
        makes_codes=True,
        folds_channels=True,
    ),
    'aqer': Step(aqer, of_layers=True, check=check_corrections, after=SUMS),
    'fit_weights': Step(fit_weights, of_layers=True, makes_codes=True),
    'gptq': Step(gptq, of_layers=True, after=(*SUMS, 'fit_weights')),
    'wqer': Step(wqer, of_layers=True, check=check_corrections, after=(*SUMS, 'fit_weights')),
}


def step_of(given: Mapping[str, Any]) -> Step:
    """Return the step that an entry of a recipe names."""
    return STEPS[given['type']]


def step_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of a recipe without its type."""
    return {key: value for key, value in given.items() if key != 'type'}


def needs(recipe: Recipe) -> set[str]:
    """Return what the steps of a recipe need of the calibration task, of 'loss' and 'predictions'."""
    return set().union(*(step_of(given).check(step_options(given)) for given in recipe.steps))


__all__ = ['STEPS', 'Calibration', 'SiteState', 'Step', 'needs', 'step_of', 'step_options']
