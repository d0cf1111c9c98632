"""What a grid may say, checked before any cell runs."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..calibration.checks import check_steps
from ..calibration.recipes import FAST_RECIPES, RECIPES, RecipeLike, resolve_recipe, spell_out
from ..calibration.recipes.base import IMAGE_GRIDS
from ..core.spec import check_bits
from ..nn.structure import SCOPES


@dataclass(frozen=True)
class RecipeChoice:
    """A row of the tables.

    Attributes:
        label: what tables call it.
        recipe: without `label` and `x`.
        type: the recipe's name, `custom` for a list of steps.
        x: its position on the axis of a curve, if it is drawn on one.
    """

    label: str
    recipe: RecipeLike = field(hash=False)
    type: str
    x: float | None = None


def unknown_key_error(what: str, key: str, allowed: Iterable[str]) -> ValueError:
    """Return an error that names an unknown key, the closest one and all of them."""
    allowed = sorted(allowed)
    close = difflib.get_close_matches(key, allowed, n=1)
    return ValueError(f'{what} {key!r}' + (f', did you mean {close[0]!r}?' if close else '') + f' (known: {allowed})')


def choose_recipe(entry: Any, image: str = IMAGE_GRIDS[0]) -> RecipeChoice:
    """Return the row that an entry of `recipes` means.

    Args:
        entry: a name, `dict(type=, option=, label=, x=)`, `dict(steps=[...], label=)`, or a list of steps.
        image: grid of the image where the entry says none, of `IMAGE_GRIDS`; tables do not repeat it in every row.

    Raises:
        ValueError: unknown recipe, step or option, options that contradict each other.
    """
    if isinstance(entry, str):
        entry = {'type': entry}
    elif isinstance(entry, Sequence):
        entry = {'steps': list(entry), 'label': 'custom'}
    elif not isinstance(entry, Mapping):
        raise ValueError(f'a recipe is a name, a dict or a list of steps, got {entry!r}')
    options = dict(entry)
    label, x = options.pop('label', None), options.pop('x', None)
    if 'steps' in options:
        recipe: RecipeLike = [dict(step) for step in options.pop('steps')]
        if options:
            raise ValueError(f'recipe {label!r} of steps takes only label and x beside them, got {sorted(options)}')
        name = 'custom'
    else:
        if set(options) == {'type'}:
            label = label or options['type']
        recipe = spell_out(options)
        name = recipe.get('type')
        if name not in RECIPES:
            raise unknown_key_error('unknown recipe', str(name), [*RECIPES, *FAST_RECIPES])
    label = label or _label(recipe)
    if image != IMAGE_GRIDS[0]:
        if not isinstance(recipe, Mapping):
            raise ValueError(f'recipe {label!r} of steps takes no image={image!r}: name a recipe')
        recipe = {'image': image} | recipe
    try:
        resolved = resolve_recipe(recipe)
        check_steps(resolved)
    except (TypeError, ValueError) as error:
        raise ValueError(f'recipe {entry}: {error}') from error
    return RecipeChoice(label, recipe, name, x)


def _label(recipe: RecipeLike) -> str:
    if not isinstance(recipe, Mapping):
        return 'custom'
    return ' '.join([str(recipe['type']), *(f'{k}={v}' for k, v in recipe.items() if k != 'type')])


def least_images(choice: RecipeChoice) -> int:
    """Return how many calibration images a recipe needs at least."""
    return getattr(resolve_recipe(choice.recipe), 'images', None) or 1


def parse_bits(text: Any) -> tuple[int, int]:
    """Return weight and activation bits of 'W4A8'.

    Raises:
        ValueError: not of that form, or bits outside 2..8.
    """
    match = re.fullmatch(r'[wW](\d+)[aA](\d+)', str(text))
    if match is None:
        raise ValueError(f"bits must look like 'W4A4', got {text!r}")
    w_bits, a_bits = int(match[1]), int(match[2])
    check_bits(f'weight bits of {text!r}', w_bits)
    check_bits(f'activation bits of {text!r}', a_bits)
    return w_bits, a_bits


def check_images(images: Sequence[Any], recipes: Sequence[RecipeChoice]) -> None:
    """Raise ValueError for a number of calibration images that is none, or too few for a recipe of the grid."""
    for number in images:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f'images must be positive integers, got {number!r}')
    for choice in recipes:
        if min(images) < least_images(choice):
            raise ValueError(
                f'recipe {choice.label!r} needs at least {least_images(choice)} calibration images and the grid has '
                f'images={list(images)}; raise them, or give that recipe a grid of its own'
            )


def check_test_images(number: Any) -> None:
    """Raise ValueError for a number of generated test images that is none; None means the model's own test set."""
    if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
        raise ValueError(f'test_images must be a positive integer, or None for the test set there is, got {number!r}')


def check_seeds(seeds: Sequence[Any]) -> None:
    """Raise ValueError for a seed that numpy and torch would refuse."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f'seeds must be integers from 0 to 2**32 - 1, got {seed!r}')


def check_scopes(scopes: Sequence[Any]) -> None:
    """Raise ValueError for an unknown scope."""
    for scope in scopes:
        if scope not in SCOPES:
            raise unknown_key_error('unknown scope', str(scope), SCOPES)
