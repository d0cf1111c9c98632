"""What can be wrong with a recipe's steps, found before anything runs."""

from .recipes import Recipe
from .steps import STEPS, step_of, step_options


def check_steps(recipe: Recipe) -> None:
    """Raise ValueError for an unknown step, an option or value it does not take, or a step before what it builds on."""
    _check_options(recipe)
    types = [given['type'] for given in recipe.steps]
    if 'fit_activations' not in types:
        raise ValueError(f"recipe {recipe.name!r} lacks the step 'fit_activations': nothing would be quantized")
    _check_kinds(recipe, types)
    for index, later in enumerate(types):
        for earlier in STEPS[later].after:
            if earlier not in types[:index]:
                raise ValueError(f'recipe {recipe.name!r}: step {later!r} needs {earlier!r} before it')


def _check_kinds(recipe: Recipe, types: list[str]) -> None:
    makers = [name for name, step in STEPS.items() if step.makes_codes]
    found = [name for name in types if name in makers]
    if len(found) != 1:
        raise ValueError(
            f'recipe {recipe.name!r} needs exactly one of the steps {makers}, which put the weights on a grid; it has '
            f'{found}'
        )
    channelwise = recipe.channelwise_roles()
    folding = [name for name, step in STEPS.items() if step.folds_channels]
    if channelwise and not set(folding) & set(types):
        raise ValueError(
            f'recipe {recipe.name!r}: roles {channelwise} are fitted per channel: add one of the steps {folding}'
        )


def _check_options(recipe: Recipe) -> None:
    for given in recipe.steps:
        name = given.get('type')
        if name not in STEPS:
            raise ValueError(f'recipe {recipe.name!r}: unknown step {name!r}; steps are {sorted(STEPS)}')
        allowed = step_of(given).option_names()
        unknown = sorted(set(given) - {'type', *allowed})
        if unknown:
            raise ValueError(f'recipe {recipe.name!r}: step {name!r} has no option {unknown}; it has {allowed}')
        step_of(given).check(step_options(given))  # refuses values that contradict each other
