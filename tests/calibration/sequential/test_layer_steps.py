"""ERQ and GPTQ on the inputs of the model quantized so far, against the same done by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn

import erq_mm
from erq_mm.core.activation_error import correct_activation_error
from erq_mm.core.gptq import gptq
from erq_mm.core.ridge import damping
from erq_mm.core.statistics import GramStats
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest
from erq_mm.nn.layers import QuantLayer

from ..swin_classifier import make_classifier
from .test_sequential import batches, error_of, mlp

SEQUENTIAL = dict(type='erq', inputs='quantized')


def is_layer(module: nn.Module) -> bool:
    return isinstance(module, QuantLayer)


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 6)).eval()


def quantized(model: nn.Module, recipe: object, images: list[Tensor], bits: tuple[int, int] = (3, 4)) -> nn.Module:
    changed = copy.deepcopy(model)
    erq_mm.quantize_(changed, erq_mm.ClassifierTask(images), recipe, *bits)
    return changed


@torch.no_grad()
def statistics_by_hand(model: nn.Module, changed: nn.Module, images: list[Tensor]) -> GramStats:
    """Return the sums of the last layer: its float input, and what its quantizer makes of the first layer's codes."""
    x, last = torch.cat(images), changed[2]
    stats = GramStats(model[2].weight)
    stats.add(model[:2](x), last.input_quantizer.fake_quantize(changed[:2](x)))
    return stats


def test_aqer_corrects_for_the_layers_before() -> None:
    model, images = two_layers(), batches()
    changed = quantized(model, SEQUENTIAL | dict(ridge=False, rounding=None), images)
    stats = statistics_by_hand(model, changed, images)
    lam = damping('relative', 0.1, stats.mean_energy(), stats.count)
    change = correct_activation_error(stats, stats.system(lam))
    weight, bias = model[2].weight + change[:, :-1], model[2].bias + change[:, -1]
    wanted = round_to_nearest(weight, bias, fit_weight_grid(weight, changed[2].weight_spec))
    torch.testing.assert_close(changed[2].weight.detach(), wanted.weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(changed[2].bias.detach(), wanted.bias, atol=1e-5, rtol=1e-4)


def test_gptq_takes_the_gram_matrix_of_quantized_inputs() -> None:
    model, images = two_layers(), batches()
    changed = quantized(model, dict(type='gptq', inputs='quantized'), images)
    stats = statistics_by_hand(model, changed, images)
    weight, bias = model[2].weight.detach(), model[2].bias.detach()
    rounded = round_to_nearest(weight, bias, fit_weight_grid(weight, changed[2].weight_spec))
    wanted = gptq(rounded, weight, stats.input_gram(), damping=0.01, act_order=False)
    torch.testing.assert_close(changed[2].weight.detach(), wanted.weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('recipe', ['erq', 'erq_tpami', 'gptq'])
def test_errors_of_earlier_layers_are_made_up_for(recipe: str) -> None:
    model, images, test = mlp(), batches(), torch.cat(batches(5))
    errors = {
        inputs: error_of(model, quantized(model, dict(type=recipe, inputs=inputs), images), test)
        for inputs in ('float', 'quantized')
    }
    if recipe == 'gptq':  # it corrects no error of its input
        assert errors['quantized'] < 1.2 * errors['float']
    else:
        assert errors['quantized'] < errors['float']


@pytest.mark.parametrize('scope', ['linears', 'all'])
def test_every_site_of_a_swin_is_quantized_and_eight_bits_keep_the_function(scope: str) -> None:
    model, task = make_classifier()
    changed, other = copy.deepcopy(model), copy.deepcopy(model)
    report = erq_mm.quantize_(changed, task, SEQUENTIAL, 8, 8, scope)
    plain = erq_mm.quantize_(other, task, 'erq', 8, 8, scope)
    assert [layer.name for layer in report.layers] == [layer.name for layer in plain.layers]
    assert all(layer.rows > 0 for layer in report.layers if layer.kind != 'matmul')
    assert all(m.has_quantized_weight and m.input_quantizer.is_active for m in changed.modules() if is_layer(m))
    error = error_of(model, changed, task.batches[0])
    assert error < 5e-3 and error < 1.5 * error_of(model, other, task.batches[0])


def test_a_layer_called_twice_and_one_that_is_never_called() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.idle = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.shared(torch.relu(self.shared(torch.relu(self.first(x)))))

    model = Twice().eval()
    changed = quantized(model, SEQUENTIAL, batches(), (8, 8))
    assert error_of(model, changed, torch.cat(batches(1))) < 2e-3
    assert all(layer.has_quantized_weight for layer in (changed.first, changed.shared))


@pytest.mark.parametrize(('recipe', 'message'), [
    (dict(type='erq', inputs='both'), "inputs must be one of .'float', 'quantized'., got 'both'"),
    ([dict(type='fit_activations'), dict(type='collect_statistics', inputs='quantized', rows=0),
      dict(type='fit_weights')], 'rows must be a positive integer, got 0'),
])  # fmt: skip
def test_bad_options_are_refused_before_the_model_is_touched(recipe: object, message: str) -> None:
    model = two_layers()
    with pytest.raises(ValueError, match=message):
        erq_mm.quantize_(model, erq_mm.ClassifierTask(batches()), recipe)
    assert type(model[0]) is nn.Linear
