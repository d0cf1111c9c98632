"""`quantize_` on bare modules: every recipe and bit width, every error, and what the report says."""

import copy
import json

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.report import check_writable
from erq_mm.nn import QuantLinear

from .small_recipes import SMALL_RECIPES

BITS = range(2, 9)


def make_model() -> nn.Sequential:
    model = nn.Sequential(
        nn.LayerNorm(12),
        nn.Linear(12, 24),
        nn.GELU(),
        nn.Linear(24, 12, bias=False),
        nn.LayerNorm(12),
        nn.Linear(12, 5),
    )
    with torch.no_grad():
        for norm in (model[0], model[4]):
            norm.weight.copy_(torch.randn(12).exp())
            norm.bias.copy_(torch.randn(12))
    return model


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(300, 12) @ torch.randn(12, 12)


def quantized(model: nn.Module, data: torch.Tensor, *args: object, **options: object):
    model = copy.deepcopy(model)
    return model, erq_mm.quantize_(model, erq_mm.ClassifierTask(data.split(64)), *args, **options)


def output_error(model: nn.Module, reference: nn.Module, data: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(data) - reference(data)).square().mean())


@pytest.mark.parametrize('recipe', SMALL_RECIPES.values(), ids=SMALL_RECIPES)
def test_error_falls_with_every_bit(recipe: dict, data: torch.Tensor) -> None:
    model = make_model()
    errors = [output_error(quantized(model, data, recipe, bits, bits)[0], model, data) for bits in BITS]
    assert all(narrow > wide for narrow, wide in zip(errors, errors[2:], strict=False))
    assert errors[-1] < 1e-2 * model(data).detach().square().mean()


@pytest.mark.parametrize('bits', BITS)
def test_erq_beats_repq_beats_nothing_in_silence(bits: int, data: torch.Tensor) -> None:
    """On the calibration rows, at every bit width."""
    model = make_model()
    repq, erq = (output_error(quantized(model, data, recipe, bits, bits)[0], model, data) for recipe in ('repq', 'erq'))
    assert erq < repq


@pytest.mark.parametrize('options', [
    dict(aqer=False), dict(ridge=False), dict(rounding=None), dict(aqer=False, ridge=False, rounding=None),
    dict(lam_mode='sum', lam=1e3), dict(lam_mode='mean', lam=0.01), dict(rounding='paper', k=2),
    dict(rounding='released', proxy='paper'), dict(integer_zero_point=False, exact_pad=False),
])  # fmt: skip
def test_every_switch_runs(options: dict, data: torch.Tensor) -> None:
    model = make_model()
    changed, report = quantized(model, data, {'type': 'erq', **options})
    assert torch.isfinite(changed(data)).all()
    assert report.recipe == 'erq'


def test_the_same_inputs_give_the_same_bytes(data: torch.Tensor) -> None:
    model = make_model()
    first, second = (quantized(model, data)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_steps_given_as_a_list_equal_the_recipe(data: torch.Tensor) -> None:
    model = make_model()
    steps = erq_mm.RECIPES['erq']().steps
    by_name, by_steps = quantized(model, data, 'erq')[0], quantized(model, data, list(steps))[0]
    assert torch.equal(by_name(data), by_steps(data))


def test_aqer_never_raises_and_wqer_beats_nearest(data: torch.Tensor) -> None:
    model = make_model()
    report = quantized(model, data, 'erq')[1]
    nearest = quantized(model, data, {'type': 'erq', 'ridge': False, 'rounding': None})[1]
    for layer, plain in zip(report.layers, nearest.layers, strict=True):
        assert layer.output_mse['aqer'] <= layer.output_mse['activation']
        assert layer.output_mse['wqer'] < plain.output_mse['fit_weights']
        assert layer.sqnr_db > plain.sqnr_db


def test_weights_are_on_their_grid_and_inputs_are_quantized(data: torch.Tensor) -> None:
    model, report = quantized(make_model(), data, w_bits=3, a_bits=5)
    for layer in (m for m in model.modules() if isinstance(m, QuantLinear)):
        codes = layer.weight / layer.weight_scale + layer.weight_zero_point
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
        assert codes.min() > -0.5 and codes.max() < 7.5
        assert len(layer.input_quantizer(torch.randn(1000) * 3).unique()) <= 32
    assert {layer.w_bits for layer in report.layers} == {3}
    assert not model.training


def test_overrides_apply_in_order(data: torch.Tensor) -> None:
    overrides = {'*': {'w_bits': 8}, 're:^3$': 'float', '5': {'a_bits': 6}}
    model, report = quantized(make_model(), data, overrides=overrides)
    assert isinstance(model[3], nn.Linear)
    assert [(layer.name, layer.w_bits, layer.a_bits) for layer in report.layers] == [('1', 8, 4), ('5', 8, 6)]
    assert report.float_layers == [{'name': '3', 'reason': 'override'}]


@pytest.mark.parametrize('recipe', SMALL_RECIPES.values(), ids=SMALL_RECIPES)
def test_a_layer_that_never_saw_a_row_has_a_fallback(recipe: dict, data: torch.Tensor) -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(12, 4), nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model, report = quantized(Routed(), data, recipe)
    unused = report.layers[1]
    assert (unused.name, unused.a_bits, unused.w_bits) == ('unused', None, 4)
    assert 'no calibration rows' in unused.note
    assert model.unused.has_quantized_weight
    torch.testing.assert_close(
        model.unused(data), nn.functional.linear(data, model.unused.weight, model.unused.bias), rtol=0, atol=0
    )


@pytest.mark.parametrize('recipe', SMALL_RECIPES.values(), ids=SMALL_RECIPES)
@pytest.mark.parametrize('rows', [1, 2])
def test_few_rows(recipe: dict, rows: int, data: torch.Tensor) -> None:
    model, _ = quantized(make_model(), data[:rows], recipe)
    assert torch.isfinite(model(data)).all()


@pytest.mark.parametrize('recipe', SMALL_RECIPES.values(), ids=SMALL_RECIPES)
@pytest.mark.parametrize('value', [0.0, 3.0, -2.0])
def test_constant_activations(recipe: dict, value: float) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))
    constant = torch.full((20, 6), value)
    changed, _ = quantized(model, constant, recipe, 8, 8)
    assert torch.isfinite(changed(constant)).all()
    torch.testing.assert_close(changed(constant), model(constant), rtol=0.05, atol=0.05)


def test_convolutions_shared_over_levels_take_the_same_path() -> None:
    """Called on three sizes per forward, as an RPN head is; the whole scope `all`."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 3, 1))
    levels = [torch.randn(2, 4, size, size) * scale for size, scale in ((16, 1), (8, 3), (4, 9))]

    def run(m: nn.Module) -> None:
        for level in levels:
            m(level)

    errors = {}
    for recipe in ('repq', 'erq'):
        changed = copy.deepcopy(model)
        report = erq_mm.quantize_(changed, run, recipe, scope='all')
        with torch.no_grad():
            errors[recipe] = sum(float((changed(x) - model(x)).square().sum()) for x in levels)
    assert [layer.kind for layer in report.layers] == ['conv', 'conv']
    assert report.layers[0].rows == 2 * (16**2 + 8**2 + 4**2)
    assert errors['erq'] < errors['repq']


BAD_INPUT = [
    (dict(recipe={'type': 'erq', 'lam_mode': 'rel'}), "lam_mode must be one of .* got 'rel'"),
    (dict(recipe={'type': 'erq', 'lam': -1.0}), 'lam must not be negative, got -1.0'),
    (dict(recipe={'type': 'erq', 'rounding': 'up'}), "rounding rule must be one of .* got 'up'"),
    (dict(recipe={'type': 'erq', 'rounding': 'released', 'k': 2}), "'released' flips one weight at a time, got k=2"),
    (dict(recipe={'type': 'erq', 'proxy': 'exact'}), "proxy must be one of .* got 'exact'"),
    (dict(recipe='erk'), "unknown recipe 'erk'; recipes are"),
    (dict(recipe={'type': 'erq', 'lambda': 3}), "recipe 'erq' with options .*lambda"),
    (dict(recipe=[{'type': 'fit_weight'}]), "unknown step 'fit_weight'; steps are"),
    (dict(recipe=[{'type': 'fit_activations', 'bins': 3}]), "step 'fit_activations' has no option .*bins"),
    (dict(recipe=[{'type': 'fit_activations'}]), "needs exactly one of the steps .*'fit_weights'.* it has \\[\\]"),
    (
        dict(recipe=[{'type': 'fit_activations'}, {'type': 'fit_weights'}, {'type': 'wqer'}]),
        "needs 'collect_statistics'",
    ),
    (dict(w_bits=9), 'w_bits must be an integer from 2 to 8, got 9'),
    (dict(a_bits=1), 'a_bits must be an integer from 2 to 8, got 1'),
    (dict(scope='heads'), "scope must be one of .* got 'heads'"),
    (dict(overrides={'backbone.*': 'float'}), "override 'backbone.\\*' matches no layer"),
    (dict(overrides={'1': {'bits': 3}}), "override '1' must be 'float' or a dict"),
    (dict(overrides={'1': {'w_bits': 12}}), "w_bits of override '1' must be an integer from 2 to 8, got 12"),
    (dict(overrides={'*': 'float'}), 'overrides leave no layer'),
]


@pytest.mark.parametrize(('options', 'message'), BAD_INPUT)
def test_bad_input_is_refused_before_the_model_is_touched(options: dict, message: str, data: torch.Tensor) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=message):
        erq_mm.quantize_(model, lambda m: pytest.fail('calibration ran'), **options)
    assert not any(isinstance(module, QuantLinear) for module in model.modules())


def test_a_model_without_layers_in_scope() -> None:
    with pytest.raises(ValueError, match="ReLU has no layer in scope 'linears'"):
        erq_mm.quantize_(nn.ReLU(), lambda m: None)
    with pytest.raises(ValueError, match='convolutions, too'):
        erq_mm.quantize_(nn.Sequential(nn.Conv2d(3, 3, 1)), lambda m: None)
    with pytest.raises(
        ValueError, match="'linears': all 2 that it has stay float, e.g. 0: shares its weights with 1.weight"
    ):
        tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        tied[1].weight = tied[0].weight
        erq_mm.quantize_(tied, lambda m: None)


def test_a_quantized_model_is_refused(data: torch.Tensor) -> None:
    model, _ = quantized(make_model(), data)
    with pytest.raises(ValueError, match='quantized already .3 layers, e.g. 1.; quantize a freshly loaded'):
        erq_mm.quantize_(model, lambda m: m(data))


@pytest.mark.parametrize('recipe', SMALL_RECIPES.values(), ids=SMALL_RECIPES)
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_values_that_are_not_finite_name_the_layer(recipe: dict, bad: float, data: torch.Tensor) -> None:
    model = make_model()
    with torch.no_grad():
        model[3].weight[2, 3] = bad
    with pytest.raises(FloatingPointError, match='NaN or infinity in 3.weight'):
        quantized(model, data, recipe)
    data[5, 5] = bad
    with pytest.raises(FloatingPointError, match='at the input of 1 .post_norm. during calibration'):
        quantized(make_model(), data, recipe)


def test_report_is_json_with_the_fixed_keys(data: torch.Tensor, tmp_path) -> None:
    report = quantized(make_model(), data)[1]
    report.write(tmp_path / 'quantization.json')
    content = json.loads((tmp_path / 'quantization.json').read_text())
    keys = {'recipe', 'w_bits', 'a_bits', 'scope', 'seed', 'calibration', 'versions', 'seconds', 'peak_memory_bytes'}
    assert keys | {'layers', 'float_layers'} <= set(content)
    layer_keys = {'name', 'kind', 'role', 'w_bits', 'a_bits', 'granularity', 'output_mse', 'sqnr_db'}
    assert layer_keys <= set(content['layers'][0])
    assert list(tmp_path.iterdir()) == [tmp_path / 'quantization.json']
    assert content['float_size_bytes'] == 8 * content['size_bytes']


def test_unwritable_report_path_is_named(tmp_path) -> None:
    (tmp_path / 'file').touch()
    for path in (tmp_path / 'file' / 'report.json', tmp_path):
        with pytest.raises(OSError, match='choose another path'):
            check_writable(path)


def test_calibration_leaves_no_hooks_behind(data: torch.Tensor) -> None:
    model, _ = quantized(make_model(), data)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


FOLDING = {
    name: recipe
    for name, recipe in SMALL_RECIPES.items()
    if any(step['type'] == 'reparameterize' for step in resolve_recipe(recipe).steps)
}


@pytest.mark.parametrize('recipe', FOLDING.values(), ids=FOLDING)
@pytest.mark.parametrize(('weight', 'bias'), [(0.0, 2.5), (1e-4, -2.5), (0.0, 0.0), (0.0, 100.0)])
def test_a_constant_channel_costs_no_more_than_an_ordinary_one(recipe: dict, weight: float, bias: float) -> None:
    """A pruned LayerNorm weight."""
    data, fresh = torch.randn(256, 32), torch.randn(256, 32)
    errors = []
    for is_constant in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 8))
        with torch.no_grad():
            if is_constant:
                model[0].weight[5], model[0].bias[5] = weight, bias
        changed, _ = quantized(model, data, recipe, 8, 8)
        errors.append(output_error(changed, model, fresh) / float(model(fresh).detach().square().mean()))
    assert errors[1] < 1.5 * errors[0] + 1e-5
