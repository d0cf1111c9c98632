"""Decide which layers are quantized and how, before anything is touched."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from torch import nn

from ..core.pixel_levels import PixelLevels
from ..core.spec import PIXEL_BITS, QuantSpec, check_bits
from ..nn.structure import OUTSIDE_SCOPE, Site, find_sites
from ..nn.usage import Usage
from .account import account
from .checks import check_steps
from .recipes import Recipe

OVERRIDE_KEYS = ('w_bits', 'a_bits')
Overrides = Mapping[str, Mapping[str, int] | str]


class Plan:
    """Which sites are quantized with which specs; nothing is touched yet.

    Attributes:
        float_layers: (name, reason) of layers that stay float.
        levels: of the layers that get exact pixels.
        notes: lines for the report.
    """

    def __init__(self, float_layers: list[tuple[str, str]]) -> None:
        self.float_layers = float_layers
        self.sites: list[Site] = []
        self.weight_specs: dict[str, QuantSpec] = {}
        self.input_specs: dict[str, tuple[QuantSpec, ...]] = {}
        self.levels: dict[str, PixelLevels] = {}
        self.notes: list[str] = []

    def image_layers(self) -> list[str]:
        """Return the layers that are meant to get exact pixels."""
        return [name for name, specs in self.input_specs.items() if specs[0].grid == 'pixels']

    def drop_unknown_pixels(self) -> None:
        """Give layers whose levels nobody has looked for one range for all channels."""
        for name in self.image_layers():
            if name not in self.levels:
                self.input_specs[name] = (replace(self.input_specs[name][0], grid='uniform'),)


def plan_quantization(
    model: nn.Module,
    recipe: Recipe,
    w_bits: int,
    a_bits: int,
    scope: str,
    overrides: Overrides,
    usage: Usage | None = None,
    images: Mapping[str, PixelLevels | str] | None = None,
) -> Plan:
    """Decide everything that can be decided without touching the model; raises as `quantize_` does.

    Args:
        usage: of a forward of the model; with it, what is used otherwise than as a layer stays float and is listed.
        images: what the first image has shown of the layers that want exact pixels: the levels, or why there are none.
            Without it nothing is decided about them.
    """
    check_bits('w_bits', w_bits)
    check_bits('a_bits', a_bits)
    check_steps(recipe)
    sites, float_layers = find_sites(model, scope, usage)
    if not sites:
        _refuse_empty_scope(model, scope, float_layers)
    plan = Plan(float_layers + (account(model, sites, float_layers, usage) if usage else []))
    settings = _apply_overrides(sites, dict(float_layers), w_bits, a_bits, overrides)
    sites = _without_torn_norms(sites, settings, recipe)
    for site in sites:
        setting = settings[site.name]
        if setting is None:
            plan.float_layers.append((site.name, 'override'))
            continue
        reason = recipe.why_float(site)
        if reason is not None:
            plan.float_layers.append((site.name, reason))
            continue
        plan.sites.append(site)
        plan.weight_specs[site.name] = recipe.weight_spec(site, setting['w_bits'])
        plan.input_specs[site.name] = tuple(_input_spec(recipe, site, role, setting) for role in site.roles)
        if recipe.has_exact_pixels(site.roles[0]):
            _choose_image_grid(plan, site.name, images)
    if not plan.sites:
        raise ValueError('overrides leave no layer to quantize')
    return plan


def _refuse_empty_scope(model: nn.Module, scope: str, float_layers: list[tuple[str, str]]) -> NoReturn:
    """Raise ValueError for a model of which nothing can be quantized."""
    message = f'{type(model).__name__} has no layer in scope {scope!r}: '
    within = [(name, reason) for name, reason in float_layers if reason != OUTSIDE_SCOPE]
    if within:
        name, reason = within[0]
        raise ValueError(f'{message}all {len(within)} that it has stay float, e.g. {name or "itself"}: {reason}')
    wider = ' or nn.Conv2d' if scope == 'all' else '; scope="all" takes convolutions, too'
    raise ValueError(f'{message}it has no nn.Linear{wider}')


def _without_torn_norms(sites: list[Site], settings: Mapping[str, dict[str, Any] | None], recipe: Recipe) -> list[Site]:
    """Return the sites, without the LayerNorm where several layers see it and do not all get the same input grid."""
    grids: dict[str | None, set[int | None]] = defaultdict(set)
    for site in sites:
        setting = settings[site.name]
        is_float = setting is None or recipe.why_float(site) is not None
        grids[site.norm].add(None if is_float else setting['a_bits'])
    torn = {norm for norm, found in grids.items() if len(found) > 1} - {None}
    return [replace(site, norm=None, windows=None) if site.norm in torn else site for site in sites]


def _input_spec(recipe: Recipe, site: Site, role: str, setting: dict[str, Any]) -> QuantSpec:
    """A channel-wise fit needs a LayerNorm to fold it into; without one (norm=None, no affine) it is per tensor."""
    spec = recipe.input_spec(role, setting['a_bits'])
    if role == 'image' and setting['a_bits_overridden']:
        spec = replace(spec, bits=setting['a_bits'])
    if spec.granularity == 'channel' and site.norm is None:
        spec = replace(spec, granularity='tensor', grid='uniform')
    return spec


def _choose_image_grid(plan: Plan, name: str, images: Mapping[str, PixelLevels | str] | None) -> None:
    """Give a layer the levels of the pixels; where there are none it keeps its grid, and a note says why."""
    (spec,) = plan.input_specs[name]
    if spec.bits != PIXEL_BITS:
        found: PixelLevels | str | None = f'it has {spec.bits} bits, pixels {PIXEL_BITS}'
    else:
        found = None if images is None else images.get(name, 'the first calibration image does not reach it')
    if isinstance(found, str):
        plan.notes.append(f'image without exact pixels: {name} has one range for all channels: {found}')
        return
    plan.input_specs[name] = (replace(spec, grid='pixels'),)
    if found is not None:
        plan.levels[name] = found


def _apply_overrides(
    sites: list[Site], float_layers: Mapping[str, str], w_bits: int, a_bits: int, overrides: Overrides
) -> dict[str, dict[str, Any] | None]:
    settings: dict[str, dict[str, Any] | None] = {
        site.name: {'w_bits': w_bits, 'a_bits': a_bits, 'a_bits_overridden': False} for site in sites
    }
    for pattern, change in overrides.items():
        matched = [s.name for s in sites if any(_matches(pattern, name) for name in (s.name, *s.aliases))]
        if not matched:
            _refuse_pattern(pattern, change, list(settings), float_layers)
        if change != 'float' and (
            not isinstance(change, Mapping) or not set(change) <= set(OVERRIDE_KEYS) or not change
        ):
            raise ValueError(
                f"override {pattern!r} must be 'float' or a dict with keys of {OVERRIDE_KEYS}, got {change!r}"
            )
        for name in matched:
            if change == 'float':
                settings[name] = None
                continue
            for key, bits in change.items():
                check_bits(f'{key} of override {pattern!r}', bits)
            base = settings[name] or {'w_bits': w_bits, 'a_bits': a_bits, 'a_bits_overridden': False}
            settings[name] = (
                base | dict(change) | {'a_bits_overridden': 'a_bits' in change or base['a_bits_overridden']}
            )
    return settings


def _refuse_pattern(pattern: str, change: object, names: list[str], float_layers: Mapping[str, str]) -> None:
    """Raise ValueError for a pattern that matches no site, unless it wants float what is float anyway."""
    left_float = [name for name in float_layers if _matches(pattern, name)]
    if not left_float:
        raise ValueError(
            f'override {pattern!r} matches no layer in scope; layers are e.g. {names[:3]} ... {names[-3:]}'
        )
    if change != 'float':
        first = left_float[0]
        raise ValueError(
            f'override {pattern!r} matches only layers that stay float, e.g. {first}: {float_layers[first]}'
        )


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith('re:'):
        return re.search(pattern[3:], name) is not None
    return fnmatchcase(name, pattern)
