"""`deploy=True`: every grid of a recipe is one of integer kernels, or the recipe says which is not."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.recipes import RECIPES, resolve_recipe
from erq_mm.core.spec import QuantSpec
from erq_mm.export.integer.codes import IntegerWeight, input_grid, integer_weight
from erq_mm.export.integer.operators import PAIR_LIMIT, largest_pair
from erq_mm.nn import QuantLinear
from erq_mm.nn.layers import QuantLayer

from ..nn.swin import make_swin
from ..nn.test_attention import Detector
from .small_recipes import small

DEPLOYABLE = ('rtn', 'repq', 'gptq', 'erq', 'serq', 'serq_tuned', 'adaround', 'qdrop', 'aphq')


def deployed(name: str, **options: object) -> dict[str, object]:
    return {'deploy': True} | small(name, **options)


@pytest.mark.parametrize(('name', 'words'), [
    ('erq_tpami', 'two scales per row'), ('adalog', "role 'post_gelu' have the grid 'adaptive_log_gelu'"),
    ('fq_vit', "'post_norm' have the grid 'power_of_two_factor'"), ('ptq4vit', "'post_gelu' have the grid 'twin_gelu'"),
])  # fmt: skip
def test_methods_of_other_grids_are_refused_with_the_way_out(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"recipe '{name}' cannot be deployed: .*{words}.* such as erq, repq or rtn"):
        resolve_recipe(deployed(name))


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="recipe 'erq' cannot be deployed with integer_zero_point=False"):
        resolve_recipe(deployed('erq', integer_zero_point=False))
    with pytest.raises(ValueError, match="deploy of recipe 'erq' must be True or False, got 'int8'"):
        resolve_recipe({'type': 'erq', 'deploy': 'int8'})


@pytest.mark.parametrize('name', sorted(RECIPES))
def test_without_it_nothing_changes(name: str) -> None:
    assert resolve_recipe({'deploy': False} | small(name)) == resolve_recipe(small(name))


@pytest.mark.parametrize('bits', range(2, 9))
def test_weights_of_7_and_8_bits_are_symmetric_and_all_fit_int8(bits: int) -> None:
    """And up to 7 bits two products fit 16 bits, which CPUs without VNNI have for them."""
    recipe = resolve_recipe('erq').for_deployment()
    site = next(iter(erq_sites()))
    spec = recipe.weight_spec(site, bits)
    assert spec == replace(resolve_recipe('erq').weight_spec(site, bits), grid='symmetric' if bits > 6 else 'uniform')
    linear = nn.Linear(40, 8)
    with torch.no_grad():
        linear.weight.copy_(torch.rand_like(linear.weight) * 3)  # all rows off centre
    model = nn.Sequential(nn.Identity(), linear)
    erq_mm.quantize_(model, lambda m: m(torch.randn(50, 40)), recipe, bits, 8)
    weight = integer_weight(model[1])
    assert isinstance(weight, IntegerWeight)
    assert (largest_pair(weight.codes, 255) <= PAIR_LIMIT) is (bits < 8)


def erq_sites() -> list:
    from erq_mm.nn.structure import find_sites

    return find_sites(nn.Sequential(nn.Identity(), nn.Linear(4, 4)), 'linears')[0]


@pytest.mark.parametrize('name', DEPLOYABLE)
@pytest.mark.parametrize('bits', [4, 8])
def test_every_layer_of_a_bare_model_is_ready(name: str, bits: int) -> None:
    model = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 5))
    data = torch.randn(100, 12)
    erq_mm.quantize_(model, erq_mm.ClassifierTask(data.split(50)), deployed(name), bits, 8)
    for layer in model:
        if isinstance(layer, QuantLinear):
            assert isinstance(integer_weight(layer), IntegerWeight)
            assert not isinstance(input_grid(layer.input_quantizer), str)


@torch.no_grad()
@pytest.mark.parametrize('name', ['erq', 'serq', 'serq_tuned'])
def test_swin_keeps_its_function_with_float_products_and_runs_as_integers(name: str) -> None:
    """Windows are padded at this size; the guard of `quantize_` proves the swap and the reparameterization."""
    model, image = Detector(make_swin()), torch.randn(2, 3, 100, 132)
    expected = copy.deepcopy(model)(image)
    report = erq_mm.quantize_(model, lambda m: m(image), deployed(name), 7, 8, scope='all')
    float_products = [entry for entry in report.float_layers if 'float under deploy=True' in entry['reason']]
    assert len(float_products) == 8 and any('deploy=True' in note for note in report.notes)
    assert all(layer.kind != 'matmul' for layer in report.layers)
    simulated = model(image)
    result = erq_mm.deploy_(model)
    assert len(result.integer) == len(report.layers) and not result.simulated and len(result.chunked) == 4
    assert not any(isinstance(module, QuantLayer) for module in model.modules())
    for ours, theirs, original in zip(model(image), simulated, expected, strict=True):
        # rounding errors move single codes at ties, which these large random weights pass on
        assert float((ours - theirs).norm()) < 1e-2 * float(theirs.norm())
        assert float((ours - original).norm()) < 0.05 * float(original.norm())


def test_a_product_can_be_left_float_by_name_as_well() -> None:
    model, image = Detector(make_swin()), torch.randn(1, 3, 60, 60)
    overrides = {'*.query_key': 'float', '*.probability_value': 'float'}
    report = erq_mm.quantize_(model, lambda m: m(image), 'repq', 8, 8, overrides=overrides)
    assert {layer.kind for layer in report.layers} == {'linear', 'conv'}


def test_spec_of_another_bit_width_stays_what_it_is() -> None:
    recipe = resolve_recipe('erq').for_deployment()
    assert recipe.input_spec('linear_input', 8) == QuantSpec(8)
