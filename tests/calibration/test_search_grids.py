"""The step `search_grids`, and what the recipes that have it promise."""

import copy
import itertools

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.report import LayerReport
from erq_mm.calibration.state import SiteState
from erq_mm.calibration.steps.search_grids import output_error
from erq_mm.core.histogram import Histogram
from erq_mm.core.spec import QuantSpec
from erq_mm.nn import QuantLinear, QuantMatMul
from erq_mm.nn.structure import Site

from .test_pipeline import make_model, quantized

DOPQ = {'type': 'dopq', 'reconstruction': False}


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(300, 12) @ torch.randn(12, 12)


def attention_state(spec: QuantSpec) -> tuple[SiteState, torch.Tensor, torch.Tensor]:
    """Return a product with its left quantizer fitted to the probabilities, and both operands; a third is masked."""
    logits = torch.randn(20, 9, 9) * 3
    logits[:7, :, 5:] -= 100
    probability, value = logits.softmax(-1), torch.randn(20, 9, 4) * torch.logspace(-1, 1, 9)[:, None]
    module, histogram = QuantMatMul(spec, QuantSpec(8)), Histogram()
    module.left_quantizer.observe(probability, histogram)
    module.left_quantizer.fit(histogram)
    site = Site('product', 'matmul', ('post_softmax', 'value'))
    report = LayerReport('product', 'matmul', 'post_softmax,value', None, 4, {})
    return SiteState(site, module, (spec, QuantSpec(8)), report, [histogram]), probability, value


@pytest.mark.parametrize('bits', [2, 3, 4])
def test_search_by_outputs_is_the_brute_force_over_outputs(bits: int) -> None:
    """All 128 candidates of the tangent grid, one by one; hence never worse than the search by values."""
    spec = QuantSpec(bits, grid='tan', percentiles=(0.999, 0.9999, 0.99999, 1.0))
    state, probability, value = attention_state(spec)
    quantizer = state.module.left_quantizer

    def error() -> float:
        return float((quantizer.fake_quantize(probability) @ value - probability @ value).square().sum())

    by_values = error()
    lattice, errors = quantizer.lattice(state.histograms[0]), []
    for candidate in itertools.product(lattice.scales, lattice.shapes):
        quantizer.set_candidate(candidate)
        errors.append(error())
    quantizer.search(state.histograms[0], output_error(state, 0, (probability, value)))
    assert error() == pytest.approx(min(errors), rel=1e-4)
    assert error() <= by_values * (1 + 1e-4)


@pytest.mark.parametrize('bits', [2, 3, 4])
def test_search_by_outputs_beats_values_for_the_adaptive_logarithm(bits: int) -> None:
    state, probability, value = attention_state(QuantSpec(bits, grid='adaptive_log'))
    error = output_error(state, 0, (probability, value))
    by_values = float(error())
    state.module.left_quantizer.search(state.histograms[0], error)
    assert float(error()) <= by_values


def test_output_error_of_a_layer_and_of_a_right_operand() -> None:
    x, value = torch.randn(30, 6), torch.randn(6, 3)
    linear = QuantLinear(nn.Linear(6, 3), QuantSpec(4, 'row'), QuantSpec(3))
    linear.input_quantizer.set_parameters(0.5, 4)
    state = SiteState(Site('a', 'linear', ('post_gelu',)), linear, (QuantSpec(3),), None)
    change = linear.input_quantizer.fake_quantize(x) - x
    expected = (change @ linear.weight.T).square().sum()
    torch.testing.assert_close(output_error(state, 0, (x,))(), expected.detach())
    product = QuantMatMul(QuantSpec(3), QuantSpec(3))
    product.right_quantizer.set_parameters(0.5, 4)
    state = SiteState(Site('b', 'matmul', ('query', 'key')), product, (QuantSpec(3),) * 2, None)
    change = product.right_quantizer.fake_quantize(value) - value
    torch.testing.assert_close(output_error(state, 1, (x, value))(), (x @ change).square().sum())


def test_output_criterion_helps_the_layer_behind_gelu(data: torch.Tensor) -> None:
    """On the layer's own output, with float weights."""
    model, errors = make_model(), {}
    hidden = model[:3](data).detach()
    for criterion in ('output', 'values'):
        changed, _ = quantized(model, data, {'type': 'adalog', 'criterion': criterion}, 8, 3)
        quantizer = changed[3].input_quantizer
        assert quantizer.spec.grid == 'adaptive_log_gelu'
        errors[criterion] = float(((quantizer(hidden) - hidden) @ model[3].weight.T).square().sum())
    assert errors['output'] <= 1.02 * errors['values']


@pytest.mark.parametrize('options', [
    dict(type='adalog', criterion='values', beam=2, steps=2), dict(type='adalog', bases='released', steps=6),
    DOPQ | dict(variant='ones'), DOPQ | dict(criterion='values', exact_pad=False),
    dict(type='fq_vit', attention_bits=4),
])  # fmt: skip
def test_every_switch_runs(options: dict, data: torch.Tensor) -> None:
    model = make_model()
    changed, report = quantized(model, data, options, 6, 6)
    assert torch.isfinite(changed(data)).all()
    assert report.recipe == options['type']


def test_the_same_inputs_give_the_same_bytes(data: torch.Tensor) -> None:
    model = make_model()
    first, second = (quantized(model, data, 'adalog')[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize('recipe', ['fq_vit', 'adalog', DOPQ], ids=str)
def test_a_checkpoint_gives_the_same_outputs(recipe: object, data: torch.Tensor) -> None:
    model = make_model()
    source, target = quantized(model, data, recipe)[0], quantized(model, data.flip(0) * 2, recipe)[0]
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    assert torch.equal(target(data), source(data))


def test_the_report_says_that_dopq_is_a_reconstruction(data: torch.Tensor) -> None:
    notes = quantized(make_model(), data, DOPQ)[1].to_dict()['notes']
    assert any('the published formula was not available' in note for note in notes)


@pytest.mark.parametrize(('recipe', 'message'), [
    ({'type': 'adalog', 'criterion': 'mse'}, "criterion must be one of .'output', 'values'., got 'mse'"),
    ({'type': 'adalog', 'beam': 0}, 'beam must be a positive integer, got 0'),
    ({'type': 'adalog', 'bases': 'all'}, "bases must be one of .'extended', 'released'., got 'all'"),
    (DOPQ | {'beta_stop': 2}, r"dopq without reconstruction has no option .'beta_stop'."),
    ({'type': 'dopq', 'variant': 'zeros'}, "variant must be one of .'both', 'ones'., got 'zeros'"),
    ({'type': 'fq_vit', 'attention_bits': 9}, 'attention_bits must be an integer from 2 to 8, got 9'),
    ([{'type': t} for t in ('search_grids', 'fit_activations', 'fit_weights')], "needs 'fit_activations' before"),
])  # fmt: skip
def test_bad_options_are_refused_before_the_model_is_touched(recipe: object, message: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=message):
        erq_mm.quantize_(model, lambda m: pytest.fail('calibration ran'), recipe)
    assert not any(isinstance(module, QuantLinear) for module in model.modules())
