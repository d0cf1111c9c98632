"""What can be wrong with a recipe's steps, found before anything runs."""

from .recipes import Recipe
from .steps import LAYER_STEPS, MODEL_STEPS, STEP_NEEDS, WEIGHT_STEPS, option_names, step_options

# step -> what has to stand before it
PREDECESSORS = {
    'hessian_search': ('fit_activations',),
    'search_grids': ('fit_activations',),
    'reconstruct': ('fit_activations',),
    'sequential': ('fit_activations',),
    'aqer': ('collect_statistics',),
    'wqer': ('collect_statistics', 'fit_weights'),
    'gptq': ('collect_statistics', 'fit_weights'),
}


def check_steps(recipe: Recipe) -> None:
    """Raise ValueError for an unknown step, an option or value it does not take, or a step before what it builds on."""
    _check_options(recipe)
    types = [step['type'] for step in recipe.steps]
    if 'fit_activations' not in types:
        raise ValueError(f"recipe {recipe.name!r} lacks the step 'fit_activations': nothing would be quantized")
    weight_steps = [name for name in types if name in WEIGHT_STEPS]
    if len(weight_steps) != 1:
        raise ValueError(
            f'recipe {recipe.name!r} needs exactly one of the steps {list(WEIGHT_STEPS)}, which put the weights on a '
            f'grid; it has {weight_steps}'
        )
    for index, later in enumerate(types):
        for earlier in PREDECESSORS.get(later, ()):
            if earlier not in types[:index]:
                raise ValueError(f'recipe {recipe.name!r}: step {later!r} needs {earlier!r} before it')


def _check_options(recipe: Recipe) -> None:
    known = MODEL_STEPS | LAYER_STEPS
    for step in recipe.steps:
        name = step.get('type')
        if name not in known:
            raise ValueError(f'recipe {recipe.name!r}: unknown step {name!r}; steps are {sorted(known)}')
        allowed = option_names(name)
        unknown = sorted(set(step) - {'type', *allowed})
        if unknown:
            raise ValueError(f'recipe {recipe.name!r}: step {name!r} has no option {unknown}; it has {allowed}')
        if name in STEP_NEEDS:
            STEP_NEEDS[name](step_options(step))  # refuses values that contradict each other
