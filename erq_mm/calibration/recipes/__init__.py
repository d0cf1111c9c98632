"""Recipes by name: a published method is a recipe, not a code path."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from .adalog import adalog
from .base import IMAGE_GRIDS, Recipe
from .closed_form import REPQ_ACTIVATIONS, REPQ_AT_8_BITS, erq, erq_tpami, gptq, repq, rtn
from .dopq import dopq
from .fq_vit import fq_vit
from .ptq4vit import ptq4vit, ptq4vit_channelwise
from .reconstruction import adaround, aphq, brecq, mgrq, pd_quant, qdrop
from .sequential import serq, serq_tuned

RECIPES: dict[str, Callable[..., Recipe]] = {
    'rtn': rtn,
    'repq': repq,
    'gptq': gptq,
    'erq': erq,
    'erq_tpami': erq_tpami,
    'serq': serq,
    'serq_tuned': serq_tuned,
    'adaround': adaround,
    'brecq': brecq,
    'qdrop': qdrop,
    'pd_quant': pd_quant,
    'mgrq': mgrq,
    'aphq': aphq,
    'fq_vit': fq_vit,
    'adalog': adalog,
    'dopq': dopq,
    'ptq4vit': ptq4vit,
    'ptq4vit_channelwise': ptq4vit_channelwise,
}
FAST_RECIPES = {f'{name}_fast': name for name, make in RECIPES.items() if 'preset' in signature(make).parameters}
RecipeLike = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Recipe


def spell_out(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{'type': NAME, 'preset': 'fast', ...}` for `{'type': 'NAME_fast', ...}`, any other recipe as it is."""
    name = recipe.get('type')
    if name in RECIPES or name not in FAST_RECIPES:
        return dict(recipe)
    return {'preset': 'fast'} | dict(recipe) | {'type': FAST_RECIPES[name]}


def resolve_recipe(recipe: RecipeLike) -> Recipe:
    """Return the recipe meant by a name, by `{'type': name, option: value}`, or by a list of steps.

    `NAME_fast` is the recipe NAME with `preset='fast'`. A list of steps gets the quantizers of RepQ-ViT. Besides its
    own options every recipe has `deploy`: use only grids that integer kernels have (see `deployable`); and `image`:
    `pixels`, the image on its own levels, or `published`, on one fitted range.

    Raises:
        ValueError: unknown name or option, with those that exist; a method that cannot be deployed.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        recipe = {'type': recipe}
    if isinstance(recipe, Mapping):
        options = spell_out(recipe)
        name = options.pop('type', None)
        if name not in RECIPES:
            raise ValueError(f'unknown recipe {name!r}; recipes are {sorted(RECIPES)} and {sorted(FAST_RECIPES)}')
        deploy = options.pop('deploy', False)
        if not isinstance(deploy, bool):
            raise ValueError(f'deploy of recipe {name!r} must be True or False, got {deploy!r}')
        image = options.pop('image', IMAGE_GRIDS[0])
        try:
            built = RECIPES[name](**options)
        except TypeError as error:
            raise ValueError(f'recipe {name!r} with options {options}: {error}') from error
        built = built.with_image(image)
        return built.for_deployment() if deploy else built
    steps = tuple(dict(step) for step in recipe)
    reparameterized = any(step.get('type') == 'reparameterize' for step in steps)
    activations = REPQ_ACTIVATIONS if reparameterized else {'post_softmax': REPQ_ACTIVATIONS['post_softmax']}
    return Recipe('custom', steps=steps, activations=activations, at_8_bits=REPQ_AT_8_BITS)


__all__ = ['FAST_RECIPES', 'RECIPES', 'Recipe', 'RecipeLike', 'resolve_recipe', 'spell_out']
