"""The step `hessian_search` and the recipes `ptq4vit` and `ptq4vit_channelwise`."""

import copy

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.pipeline import swap_for_calibration
from erq_mm.calibration.planning import plan_quantization
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.samples import collect_samples
from erq_mm.calibration.steps.hessian_search import NO_GRADIENT
from erq_mm.core.output_search import importance_of, weighted_error
from erq_mm.nn import QuantLayer, QuantLinear

from .swin_classifier import make_classifier
from .test_pipeline import make_model, output_error, quantized

RECIPES = ('ptq4vit', 'ptq4vit_channelwise')
BITS = range(2, 9)


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(300, 12) @ torch.randn(12, 12)


def metric(model: nn.Module, quantized_model: nn.Module, task: erq_mm.ClassifierTask, rows: int) -> dict[str, float]:
    """Return the Hessian-weighted error of every layer of `quantized_model`, on all rows."""
    reference = copy.deepcopy(model)
    plan = plan_quantization(reference, resolve_recipe('ptq4vit'), 4, 4, 'linears', {})
    calibration = swap_for_calibration(reference, plan, task, 0, None)
    errors = {}
    for name, sample in collect_samples(calibration, calibration.sites, rows, with_gradients=True).items():
        layer, x = quantized_model.get_submodule(name), sample.inputs[0]
        change = (layer.input_quantizer(x) @ layer.weight.T - x @ reference.get_submodule(name).weight.T).detach()
        errors[name] = float(weighted_error(change, importance_of(sample.gradients)))
    return errors


@pytest.mark.parametrize('recipe', RECIPES)
@pytest.mark.parametrize('bits', BITS)
def test_every_layer_ends_better_than_it_began(recipe: str, bits: int, data: torch.Tensor) -> None:
    """On the step's own metric and all rows; one candidate, the first scale itself, is no search."""
    model, task = make_model(), erq_mm.ClassifierTask(data.split(64))
    no_search = {'type': recipe, 'candidates': 1, 'alpha': 1 - 1e-9, 'beta': 1.0, 'rows': 300}
    before, after = (
        metric(model, quantized(model, data, options, bits, bits)[0], task, 300)
        for options in (no_search, {'type': recipe, 'rows': 300})
    )
    assert all(after[name] < before[name] for name in before)
    assert sum(after.values()) < 0.9 * sum(before.values())


@pytest.mark.parametrize('recipe', RECIPES)
def test_error_falls_with_bits_by_orders_of_magnitude(recipe: str, data: torch.Tensor) -> None:
    model = make_model()
    errors = [output_error(quantized(model, data, recipe, bits, bits)[0], model, data) for bits in (2, 4, 6, 8)]
    assert errors[0] > 2 * errors[1] > 10 * errors[2] > 50 * errors[3]


def test_the_loss_decides_which_rows_count(data: torch.Tensor) -> None:
    """A loss over the first class only: its output gets better, compared with the plain squared error."""

    class FirstClass(erq_mm.ClassifierTask):
        def loss(self, model: nn.Module, index: int) -> torch.Tensor:
            return model(self.batches[index])[:, 0].square().sum()

    model = nn.Sequential(nn.Linear(12, 2))
    with torch.no_grad():
        model[0].weight[1] *= 30
    errors = {}
    for name in ('hessian', 'mse'):
        changed = copy.deepcopy(model)
        erq_mm.quantize_(changed, FirstClass([data]), {'type': 'ptq4vit', 'metric': name, 'rows': 300}, 4, 8)
        errors[name] = float((changed(data) - model(data))[:, 0].detach().square().mean())
    assert errors['hessian'] < 0.5 * errors['mse']


def test_swin_grids_are_the_published_ones() -> None:
    """One scale per weight, three for qkv, one per row in the patch embedding; twin grids behind softmax and GELU."""
    model, task = make_classifier()
    images, reference = torch.cat(task.batches), copy.deepcopy(model)
    report = erq_mm.quantize_(model, task, {'type': 'ptq4vit', 'candidates': 20}, 6, 6)
    grids = {name: module.spec.grid for name, module in model.named_modules() if hasattr(module, 'spec')}
    expected = {'left_quantizer': {'symmetric', 'twin_softmax'}, 'right_quantizer': {'symmetric'}}
    for child, found in expected.items():
        assert {grid for name, grid in grids.items() if name.endswith(child)} == found
    assert {grid for name, grid in grids.items() if name.endswith('layers.1.input_quantizer')} == {'twin_gelu'}
    assert grids['backbone.patch_embed.projection.input_quantizer'] == 'uniform'
    for name, layer in ((n, m) for n, m in model.named_modules() if isinstance(m, QuantLayer)):
        thirds = [len(part.unique()) for part in layer.weight_scale.chunk(3)]
        if name.endswith('patch_embed.projection'):
            assert len(layer.weight_scale.unique()) > 3 and layer.input_quantizer.spec.bits == 8
        elif name.endswith('qkv'):
            assert thirds == [1, 1, 1] and len(layer.weight_scale.unique()) > 1
        else:
            assert len(layer.weight_scale.unique()) == 1
    products = [m for n, m in model.named_modules() if n.endswith('probability_value')]
    assert all(float(p.left_quantizer.exponent).is_integer() for p in products)
    with torch.no_grad():
        error, signal = ((model(images) - reference(images)).square().mean(), reference(images).var())
    assert error < 0.2 * signal
    assert not any(layer.note for layer in report.layers)


def test_channelwise_is_a_variant_and_says_so(data: torch.Tensor) -> None:
    model = make_model()
    with torch.no_grad():
        model[5].weight *= torch.logspace(-1.5, 1.5, 5)[:, None]
    (layerwise, _), (channelwise, report) = (quantized(model, data, recipe, 4, 8) for recipe in RECIPES)
    assert any('a variant' in note for note in report.notes)
    assert len(channelwise[5].weight_scale.unique()) == 5 and len(layerwise[5].weight_scale.unique()) == 1
    errors = [(changed(data) - model(data)).detach()[:, 0].square().mean() for changed in (layerwise, channelwise)]
    assert errors[1] < 0.2 * errors[0]


def test_layers_that_the_loss_does_not_reach_are_searched_for_the_squared_error(data: torch.Tensor) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.ignored = nn.Linear(12, 4), nn.Linear(12, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.ignored(x)
            return self.used(x)

    class Calls(erq_mm.ClassifierTask):
        def loss(self, model: nn.Module, index: int) -> torch.Tensor:
            return model.used(self.batches[index]).square().sum()

    model = Branches()
    for task in (erq_mm.ClassifierTask([data]), Calls([data])):  # called in vain, and not called by the loss
        by_loss, by_error = copy.deepcopy(model), copy.deepcopy(model)
        report = erq_mm.quantize_(by_loss, task, {'type': 'ptq4vit', 'rows': 300})
        erq_mm.quantize_(by_error, task, {'type': 'ptq4vit', 'rows': 300, 'metric': 'mse'})
        assert [layer.note for layer in report.layers] == [None, NO_GRADIENT]
        torch.testing.assert_close(by_loss.ignored.weight_scale, by_error.ignored.weight_scale)


@pytest.mark.parametrize('recipe', RECIPES)
def test_convolutions(recipe: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, stride=2), nn.Flatten(2)
    )

    class Mean(erq_mm.ClassifierTask):
        def loss(self, model: nn.Module, index: int) -> torch.Tensor:
            return model(self.batches[index]).square().mean()

    images, errors = [torch.randn(1, 3, 12, 10) for _ in range(3)], []
    for bits in (3, 8):
        changed = copy.deepcopy(model)
        report = erq_mm.quantize_(changed, Mean(images), recipe, bits, bits, scope='all')
        errors.append(sum(output_error(changed, model, image) for image in images))
        assert all(layer.output_mse['hessian_search'] > 0 and layer.rows for layer in report.layers)
    assert errors[1] < 0.01 * errors[0]


def test_the_same_inputs_give_the_same_bytes(data: torch.Tensor) -> None:
    model = make_model()
    first, second = (quantized(model, data, 'ptq4vit')[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_checkpoint_gives_the_same_outputs(data: torch.Tensor) -> None:
    model = make_model()
    source, target = quantized(model, data, 'ptq4vit')[0], quantized(model, data.flip(0) * 2, 'ptq4vit')[0]
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    assert torch.equal(target(data), source(data))


def test_the_step_works_on_other_grids(data: torch.Tensor) -> None:
    """Steps given as a list have RepQ-ViT's quantizers: its affine weights are searched, its inputs stay."""
    model = make_model()
    steps = [{'type': 'fit_activations'}, {'type': 'hessian_search', 'rows': 300}]
    nearest = [steps[0], {'type': 'fit_weights'}]
    searched, plain = (quantized(model, data, recipe, 3, 8)[0] for recipe in (steps, nearest))
    assert output_error(searched, model, data) < output_error(plain, model, data)


def test_the_plain_metric_needs_no_loss(data: torch.Tensor) -> None:
    model = make_model()
    erq_mm.quantize_(model, lambda m: m(data), {'type': 'ptq4vit', 'metric': 'mse'})
    assert isinstance(model[1], QuantLinear)


@pytest.mark.parametrize(('recipe', 'message'), [
    ('ptq4vit', "recipe 'ptq4vit' needs the loss of the model, and FunctionTask gives none for Sequential"),
    ({'type': 'ptq4vit', 'metric': 'cosine'}, "metric must be one of .'hessian', 'mse'., got 'cosine'"),
    ({'type': 'ptq4vit', 'rounds': 0}, 'rounds must be a positive integer, got 0'),
    ({'type': 'ptq4vit', 'candidates': 1.5}, 'candidates must be a positive integer, got 1.5'),
    ({'type': 'ptq4vit', 'alpha': 2}, 'needs 0 < alpha < beta, got alpha=2, beta=1.2'),
    ({'type': 'ptq4vit', 'groups': 3}, "step 'hessian_search' has no option .'groups'.; it has .'candidates'"),
    ([{'type': t} for t in ('hessian_search', 'fit_activations')], "'hessian_search' needs 'fit_activations' before"),
    ([{'type': t} for t in ('fit_activations', 'fit_weights', 'hessian_search')], 'exactly one of the steps'),
])  # fmt: skip
def test_bad_recipes_are_refused_before_the_model_is_touched(recipe: object, message: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=message):
        erq_mm.quantize_(model, lambda m: pytest.fail('calibration ran'), recipe)
    assert not any(isinstance(module, QuantLinear) for module in model.modules())
