"""The alternating search of scales: brute force, never worse than the start, and what importance does."""

import pytest
import torch

from erq_mm.core.line_search import line_search, scale_factors
from erq_mm.core.output_search import (
    importance_of,
    search_layer,
    search_operand,
    search_weight_scales,
    weighted_error,
)
from erq_mm.core.quantizers import Quantizer
from erq_mm.core.spec import MIN_MAX, QuantSpec
from erq_mm.core.weight_grid import WeightGrid, fit_weight_grid, row_groups

from .quantizer_checks import fitted

FACTORS = scale_factors(20, 0.01, 1.2)


def problem(variant: str = 'layer', bits: int = 3) -> tuple:
    """Return weight, grid, groups, inputs, importance and a fitted quantizer of the inputs."""
    weight, x = torch.randn(6, 10) * torch.rand(6, 1).exp(), torch.randn(50, 10) * torch.rand(10).exp()
    importance = importance_of(torch.randn(50, 6) * torch.rand(50, 1).pow(6))
    grid = fit_weight_grid(weight, QuantSpec(bits, 'row', 'symmetric', variant=variant))
    quantizer = fitted(x, bits=bits, grid='symmetric', percentiles=MIN_MAX)
    return weight, grid, row_groups(6, variant), x, importance, quantizer


def error_of(
    weight: torch.Tensor, grid: WeightGrid, quantizer: Quantizer, x: torch.Tensor, importance: torch.Tensor | None
) -> float:
    weight_q = grid.decode(grid.encode(weight))
    return float(weighted_error(quantizer.fake_quantize(x) @ weight_q.T - x @ weight.T, importance))


def test_candidates_are_evenly_spaced() -> None:
    factors = scale_factors(100, 0.01, 1.2)
    assert len(factors) == 101 and factors[0] == 0.01 and factors[-1] == pytest.approx(1.2)
    assert factors[50] == pytest.approx(0.605)
    assert line_search([3.0, 1.0, -1.0], abs) == (1.0, 1.0)


def test_importance_is_the_squared_gradient_up_to_a_factor() -> None:
    gradients = torch.randn(7, 3) * 1e-30  # squares are zero to float32
    torch.testing.assert_close(importance_of(gradients), (gradients / gradients.abs().max()).square())
    for nothing in (None, torch.zeros(4, 2), torch.zeros(0, 2)):
        assert importance_of(nothing) is None
    assert weighted_error(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 0.5])) == 5


@pytest.mark.parametrize('variant', ['layer', 'thirds', ''])
@pytest.mark.parametrize('weighted', [True, False])
def test_weight_search_is_brute_force_per_group(variant: str, weighted: bool) -> None:
    """Every group on its own, all candidates one by one in float64."""
    weight, grid, group, x, importance, quantizer = problem(variant)
    importance = importance if weighted else None
    x_q, target = quantizer.fake_quantize(x), x @ weight.T
    found = search_weight_scales(weight, grid, group, [grid.scale * f for f in FACTORS], x_q, target, importance)
    for index in group.unique():
        rows, errors = group == index, {}
        for scale in [float(grid.scale[rows][0])] + [float(grid.scale[rows][0]) * f for f in FACTORS]:
            codes = (weight[rows] / scale).round().clamp(-4, 3)
            change = (x_q.double() @ (codes * scale).double().T - target[:, rows].double()).square()
            errors[scale] = float((change if importance is None else change * importance[:, rows]).sum())
        assert len(found.scale[rows].unique()) == 1
        chosen = min(errors, key=lambda scale: abs(scale - float(found.scale[rows][0])))
        assert errors[chosen] == pytest.approx(min(errors.values()), rel=1e-5)


def test_a_group_without_importance_is_searched_for_the_squared_error() -> None:
    weight, grid, group, x, importance, quantizer = problem('')
    importance[:, 2] = 0
    arguments = weight, grid, group, [grid.scale * f for f in FACTORS], quantizer.fake_quantize(x), x @ weight.T
    weighted, plain = (search_weight_scales(*arguments, i) for i in (importance, None))
    assert weighted.scale[2] == plain.scale[2] != grid.scale[2]
    assert not torch.equal(weighted.scale, plain.scale)


@pytest.mark.parametrize('grid', ['symmetric', 'twin_gelu'])
@pytest.mark.parametrize('bits', [2, 4, 8])
def test_input_search_is_brute_force(grid: str, bits: int) -> None:
    weight, weight_grid, group, x, importance, _ = problem(bits=bits)
    x = torch.nn.functional.gelu(x) if grid == 'twin_gelu' else x
    quantizer = fitted(x, bits=bits, grid=grid, percentiles=MIN_MAX)
    start = quantizer.parameter
    changed = search_layer(weight, weight_grid, group, quantizer, x, importance, FACTORS, rounds=1)
    found, errors = quantizer.parameter, []
    for factor in [1.0, *FACTORS]:
        quantizer.set_parameter(start * factor)
        errors.append(error_of(weight, changed, quantizer, x, importance))
    quantizer.set_parameter(found)
    assert error_of(weight, changed, quantizer, x, importance) == pytest.approx(min(errors), rel=1e-6)


@pytest.mark.parametrize('variant', ['layer', 'thirds', ''])
@pytest.mark.parametrize('bits', range(2, 9))
def test_rounds_never_end_worse(variant: str, bits: int) -> None:
    weight, grid, group, x, importance, quantizer = problem(variant, bits)
    start, errors = quantizer.parameter, [error_of(weight, grid, quantizer, x, importance)]
    for rounds in (1, 2, 3):
        quantizer.set_parameter(start)
        changed = search_layer(weight, grid, group, quantizer, x, importance, FACTORS, rounds)
        errors.append(error_of(weight, changed, quantizer, x, importance))
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in zip(errors, errors[1:], strict=False))


def test_inputs_on_another_grid_stay() -> None:
    weight, grid, group, x, importance, _ = problem()
    quantizer = fitted(x, bits=8)
    state = {key: value.clone() for key, value in quantizer.state_dict().items()}
    changed = search_layer(weight, grid, group, quantizer, x, importance, FACTORS, rounds=3)
    assert all(torch.equal(value, state[key]) for key, value in quantizer.state_dict().items())
    assert error_of(weight, changed, quantizer, x, importance) < error_of(weight, grid, quantizer, x, importance)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_large_gradients_decide(bits: int) -> None:
    """Half of the rows are 20 times wider and count for nothing: the search serves the others as if alone."""
    weight, grid, group, _, _, _ = problem(bits=bits)
    x = torch.randn(80, 10)
    x[40:] *= 20
    gradients = torch.ones(80, 6)
    gradients[40:] = 1e-6
    errors = {}
    for name, given in (('hessian', gradients), ('mse', None), ('alone', None)):
        quantizer = fitted(x, bits=bits, grid='symmetric', percentiles=MIN_MAX)
        rows = x[:40] if name == 'alone' else x
        changed = search_layer(weight, grid, group, quantizer, rows, importance_of(given), FACTORS, rounds=3)
        errors[name] = error_of(weight, changed, quantizer, x[:40], None)
    assert errors['hessian'] == pytest.approx(errors['alone'], rel=1e-3)
    assert errors['hessian'] < 0.5 * errors['mse']


@pytest.mark.parametrize('operand', [0, 1])
@pytest.mark.parametrize('bits', [2, 4, 8])
def test_operand_search_is_brute_force_beside_the_float_operand(operand: int, bits: int) -> None:
    """Attention probabilities times values: all 20 splits, or all scales of the values."""
    inputs = (torch.randn(6, 9, 9) * 3).softmax(-1), torch.randn(6, 9, 4)
    importance = importance_of(torch.randn(6, 9, 4))
    grid = ('twin_softmax', 'symmetric')[operand]
    quantizer = fitted(inputs[operand], bits=bits, grid=grid, percentiles=MIN_MAX)
    candidates = [quantizer.parameter, *quantizer.candidates(FACTORS)]

    def error() -> float:
        rounded = list(inputs)
        rounded[operand] = quantizer.fake_quantize(inputs[operand])
        return float(weighted_error(rounded[0] @ rounded[1] - inputs[0] @ inputs[1], importance))

    search_operand(quantizer, operand, inputs, importance, FACTORS)
    found, errors = error(), []
    for candidate in candidates:
        quantizer.set_parameter(candidate)
        errors.append(error())
    assert found == pytest.approx(min(errors), rel=1e-4)
