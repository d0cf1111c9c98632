"""Recipes with grids of their own on a small mmdet Swin: finite, and close to the float model at 8 bits."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.recipes import RECIPES
from erq_mm.core.quantizers.log_normalised import LogNormalisedQuantizer

from .swin import make_swin
from .test_attention import Detector

DOPQ = {'type': 'dopq', 'reconstruction': False}


@pytest.fixture
def model() -> nn.Module:
    return Detector(make_swin())


def relative_error(model: nn.Module, recipe: object, bits: int) -> float:
    """Return the largest relative error of the two outputs, at a size that pads windows."""
    changed, image = copy.deepcopy(model), torch.randn(1, 3, 100, 132, generator=torch.Generator().manual_seed(1))
    erq_mm.quantize_(changed, lambda m: m(image), recipe, bits, bits)
    with torch.no_grad():
        pairs = list(zip(changed(image), model(image), strict=True))
    assert all(torch.isfinite(ours).all() for ours, _ in pairs)
    return max(float((ours - theirs).norm() / theirs.norm()) for ours, theirs in pairs)


# a grid that has no finer base than 2**(10/37) keeps its error at any bit-width
@pytest.mark.parametrize(('recipe', 'limit'), [
    ('fq_vit', 0.02), ('adalog', 0.03), ({'type': 'adalog', 'bases': 'released'}, 0.06), (DOPQ, 0.03),
    (DOPQ | {'variant': 'ones'}, 0.03),
], ids=str)  # fmt: skip
def test_error_at_8_and_4_bits(recipe: object, limit: float, model: nn.Module) -> None:
    eight, four = (relative_error(model, recipe, bits) for bits in (8, 4))
    assert eight < limit and eight < four < 0.4


def test_powers_of_two_in_attention_would_make_most_of_the_error_of_fq_vit_at_8_bits(model: nn.Module) -> None:
    recipe = RECIPES['fq_vit']()
    powers = replace(recipe, at_8_bits={})
    assert [r.input_spec('post_softmax', 8).grid for r in (recipe, powers)] == ['uniform', 'log2']
    assert [r.input_spec('post_softmax', 7).grid for r in (recipe, powers)] == ['log2', 'log2']
    assert RECIPES['fq_vit'](attention_bits=4).input_spec('post_softmax', 8).grid == 'log2'
    error = relative_error(model, recipe, 8)
    assert error < 0.5 * relative_error(model, powers, 8)
    assert error < 1.05 * relative_error(model, 'rtn', 8)


@pytest.mark.parametrize('recipe', ['repq', 'erq'])
def test_base_sqrt2_in_attention_would_make_most_of_the_error_at_8_bits(recipe: str, model: nn.Module) -> None:
    finer, published = {'type': recipe}, {'type': recipe, 'published_attention': True}
    assert relative_error(model, finer, 8) < 0.5 * relative_error(model, published, 8)
    assert relative_error(model, finer, 4) == relative_error(model, published, 4)


def test_all_recipes_on_the_quantizers_of_repq_have_the_same_attention() -> None:
    names = ('repq', 'gptq', 'erq', 'erq_tpami', 'adaround', 'brecq', 'qdrop', 'pd_quant', 'mgrq', 'aphq')
    recipes = [RECIPES[name]() for name in names] + [RECIPES['serq'](grids='published')]
    grids = {tuple(recipe.input_spec('post_softmax', bits).grid for bits in (8, 7, 4)) for recipe in recipes}
    assert grids == {('adaptive_log', 'log_sqrt2', 'log_sqrt2')}


def test_serq_takes_finer_steps_of_the_softmax_where_it_has_the_codes(model: nn.Module) -> None:
    image = torch.randn(1, 3, 100, 132, generator=torch.Generator().manual_seed(1))
    chosen = {}
    for bits in (4, 8):
        changed = copy.deepcopy(model)
        erq_mm.quantize_(changed, lambda m: m(image), 'serq', bits, bits)  # noqa: B023
        softmax = [module for module in changed.modules() if isinstance(module, LogNormalisedQuantizer)]
        chosen[bits] = [float(quantizer.scale) for quantizer in softmax]
    assert min(chosen[4]) >= 0.25 > max(chosen[8])
