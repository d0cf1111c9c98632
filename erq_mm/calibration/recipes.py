"""Recipes: a published method is an ordered list of steps and a quantizer per role."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.spec import ACTIVATION_PERCENTILES, MIN_MAX, WEIGHT_PERCENTILES, QuantSpec
from ..nn.structure import ROLES

IMAGE_BITS = 8  # the normalised image is quantized to 8 bits in all published protocols


@dataclass(frozen=True)
class Recipe:
    """Steps in order, each `{'type': name, option: value}`, and what quantizers look like apart from their bits.

    Attributes:
        activations: role -> fields of `QuantSpec`; roles not named get a per-tensor uniform quantizer.
        weight: fields of `QuantSpec` of all weights.
    """

    name: str
    steps: tuple[Mapping[str, Any], ...]
    activations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weight: Mapping[str, Any] = field(default_factory=lambda: {'percentiles': WEIGHT_PERCENTILES})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.activations) - set(ROLES))
        if unknown:
            raise ValueError(f'recipe {self.name!r}: unknown roles {unknown}; roles are {list(ROLES)}')
        types = [step['type'] for step in self.steps]
        channelwise = [r for r, spec in self.activations.items() if spec.get('granularity') == 'channel']
        if channelwise and 'reparameterize' not in types:
            raise ValueError(
                f"recipe {self.name!r}: roles {channelwise} are fitted per channel: add the step 'reparameterize'"
            )

    def input_spec(self, role: str, a_bits: int) -> QuantSpec:
        """Return the spec of an activation quantizer."""
        bits = IMAGE_BITS if role == 'image' else a_bits
        return QuantSpec(**{'bits': bits, 'percentiles': ACTIVATION_PERCENTILES} | dict(self.activations.get(role, {})))

    def weight_spec(self, w_bits: int) -> QuantSpec:
        """Return the spec of a weight quantizer."""
        return QuantSpec(**{'bits': w_bits, 'granularity': 'row'} | dict(self.weight))


REPQ_ACTIVATIONS = {'post_norm': {'granularity': 'channel'}, 'post_softmax': {'grid': 'log_sqrt2'}}


def rtn() -> Recipe:
    """Round to nearest on minimum-maximum ranges: the floor that every method has to beat."""
    plain = {'percentiles': MIN_MAX}
    return Recipe(
        'rtn',
        steps=({'type': 'fit_activations'}, {'type': 'fit_weights'}),
        activations={role: plain for role in ROLES},
        weight=plain,
    )


def repq(exact_pad: bool = True, integer_zero_point: bool = True) -> Recipe:
    """RepQ-ViT (ICCV 2023): scale reparameterization, log-sqrt2 softmax, percentile and MSE ranges.

    Args:
        exact_pad: pad windows with the value that stands for zero; False is the published code.
        integer_zero_point: round the mean zero point; False is the published code.
    """
    reparameterize = {'type': 'reparameterize', 'exact_pad': exact_pad, 'integer_zero_point': integer_zero_point}
    return Recipe(
        'repq',
        steps=({'type': 'fit_activations'}, reparameterize, {'type': 'fit_weights'}),
        activations=REPQ_ACTIVATIONS,
    )


def erq(
    aqer: bool = True,
    ridge: bool = True,
    rounding: str | None = 'greedy',
    k: int = 1,
    iterations: int = 100,
    proxy: str = 'compensated',
    lam_mode: str = 'relative',
    lam: float = 0.1,
    exact_pad: bool = True,
    integer_zero_point: bool = True,
) -> Recipe:
    """ERQ (ICML 2024): RepQ's quantizers, Aqer, then Wqer.

    Every component can be switched off (the paper's Table 4): `aqer`, `ridge`, and `rounding=None`.

    Args:
        rounding, k, iterations: rule (`paper`, `released`, `greedy`), flips per iteration, and T.
        proxy: objective of the rounding, `paper` (Eq. 12) or `compensated` (exact after the ridge step).
        lam_mode, lam: damping of both ridge steps; 10 % of the mean diagonal was best on both demo detectors (README).
            The released code is `sum` with 1e3 (0.1 * coe, coe 1e4); the paper gives 1e5 for detection.
    """
    ridge_options = {'lam_mode': lam_mode, 'lam': lam}
    wqer = {'ridge': ridge, 'rounding': rounding, 'k': k, 'iterations': iterations, 'proxy': proxy, **ridge_options}
    prefix = repq(exact_pad, integer_zero_point).steps[:-1]
    corrections = [{'type': 'aqer', **ridge_options}] if aqer else []
    corrections.append({'type': 'fit_weights'})
    corrections += [{'type': 'wqer', **wqer}] if ridge or rounding else []
    return Recipe('erq', steps=(*prefix, {'type': 'collect_statistics'}, *corrections), activations=REPQ_ACTIVATIONS)


RECIPES: dict[str, Callable[..., Recipe]] = {'rtn': rtn, 'repq': repq, 'erq': erq}
RecipeLike = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Recipe


def resolve_recipe(recipe: RecipeLike) -> Recipe:
    """Return the recipe meant by a name, by `{'type': name, option: value}`, or by a list of steps.

    A list of steps gets the quantizers of RepQ-ViT.

    Raises:
        ValueError: unknown name or option, with those that exist.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, str):
        recipe = {'type': recipe}
    if isinstance(recipe, Mapping):
        options = dict(recipe)
        name = options.pop('type', None)
        if name not in RECIPES:
            raise ValueError(f'unknown recipe {name!r}; recipes are {sorted(RECIPES)}')
        try:
            return RECIPES[name](**options)
        except TypeError as error:
            raise ValueError(f'recipe {name!r} with options {options}: {error}') from error
    steps = tuple(dict(step) for step in recipe)
    reparameterized = any(step.get('type') == 'reparameterize' for step in steps)
    activations = REPQ_ACTIVATIONS if reparameterized else {'post_softmax': REPQ_ACTIVATIONS['post_softmax']}
    return Recipe('custom', steps=steps, activations=activations)
