"""Weights under reconstruction: where soft rounding starts, what it can reach, and its gradients."""

import pytest
import torch
from torch import nn

from erq_mm.core.adaround import ROUNDINGS, SoftRounding, StraightThroughRounding, regularization_beta
from erq_mm.core.spec import MIN_MAX, QuantSpec

from .layer_problem import double_grid

SPECS = {
    'uniform': QuantSpec(3, 'row', percentiles=MIN_MAX),
    'dual': QuantSpec(3, 'row', 'dual_uniform', MIN_MAX, outlier_share=0.25),
}


def make(kind: type, spec: QuantSpec, shape: tuple[int, ...] = (6, 16)):
    weight = torch.randn(shape).double()
    return weight, kind(weight, double_grid(weight.flatten(1), spec))


@pytest.mark.parametrize('spec', SPECS.values(), ids=SPECS)
def test_soft_rounding_starts_as_the_float_weight_and_hardens_to_nearest(spec: QuantSpec) -> None:
    weight, rounding = make(SoftRounding, spec)
    grid = rounding.grid
    step = grid.scale_of().expand(6, 16)
    low, high = grid.decode(torch.zeros_like(weight)), grid.decode(torch.full_like(weight, grid.max_code))
    clipped = weight.clamp(low, high)
    assert ((rounding(weight) - clipped).abs() <= 0.0101 * step + 1e-9).all()  # fractions are kept 1 % from whole
    rounding.hard = True
    nearest = grid.decode(grid.encode(weight))
    differs = rounding(weight) != nearest
    boundary = ((weight / step).frac().abs() - 0.5).abs() < 1e-6
    assert (differs <= boundary).all()


@pytest.mark.parametrize('kind', ROUNDINGS.values(), ids=ROUNDINGS)
@pytest.mark.parametrize('shape', [(6, 16), (6, 4, 2, 2)])
def test_hard_codes_are_on_the_grid_in_the_weights_shape(kind: type, shape: tuple[int, ...]) -> None:
    weight, rounding = make(kind, SPECS['uniform'], shape)
    rounding.hard = True
    codes = rounding.codes()
    assert torch.equal(codes, codes.round()) and codes.min() >= 0 and codes.max() <= 7
    assert rounding(weight).shape == shape
    torch.testing.assert_close(rounding(weight).flatten(1), rounding.grid.decode(codes))


def test_hardened_weights_are_one_of_the_two_neighbours() -> None:
    weight, rounding = make(SoftRounding, SPECS['uniform'])
    with torch.no_grad():
        rounding.logits.copy_(torch.randn_like(rounding.logits) * 5)
    rounding.hard = True
    low, high = (rounding.grid.decode(torch.full_like(weight, code)) for code in (0, 7))
    assert ((rounding(weight) - weight.clamp(low, high)).abs() <= rounding.grid.scale * (1 + 1e-9)).all()


@pytest.mark.parametrize('spec', SPECS.values(), ids=SPECS)
def test_gradient_of_soft_rounding_is_numerically_right(spec: QuantSpec) -> None:
    weight, rounding = make(SoftRounding, spec)

    def forward(logits: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(rounding, {'logits': logits}, (weight,))

    logits = (2 * torch.randn_like(rounding.logits)).requires_grad_()  # some clipped, none at a corner
    assert torch.autograd.gradcheck(forward, (logits,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize('beta', [20.0, 5.0, 2.0])
def test_gradient_of_the_regularization_is_numerically_right(beta: float) -> None:
    _, rounding = make(SoftRounding, SPECS['uniform'])

    def explicit(logits: torch.Tensor) -> torch.Tensor:
        h = (torch.sigmoid(logits) * 1.2 - 0.1).clamp(0, 1)
        return (1 - (2 * h - 1).abs().pow(beta)).sum()

    logits = (2 * torch.randn_like(rounding.logits)).requires_grad_()
    (expected,) = torch.autograd.grad(explicit(logits), logits)
    with torch.no_grad():
        rounding.logits.copy_(logits)
    value = rounding.regularization(beta)
    value.backward()
    torch.testing.assert_close(value, explicit(logits))
    torch.testing.assert_close(rounding.logits.grad, expected)


def test_straight_through_weights_get_the_gradient_of_their_value_inside_the_range_only() -> None:
    grid = double_grid(torch.tensor([[-1.0, -0.5, 0.2, 1.0]]).double(), SPECS['uniform'])
    rounding = StraightThroughRounding(torch.tensor([[-3.0, -0.5, 0.2, 3.0]]).double(), grid)
    seed = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).double()
    (rounding(rounding.values.detach()) * seed).sum().backward()
    assert rounding.values.grad.tolist() == [[0, 2, 3, 0]]


def test_regularization_is_zero_at_whole_roundings_and_largest_at_one_half() -> None:
    _, rounding = make(SoftRounding, SPECS['uniform'])
    values = []
    for logit in (-50.0, 0.0, 50.0):
        with torch.no_grad():
            rounding.logits.fill_(logit)
        values.append(float(rounding.regularization(2.0)))
    assert values == [0, 6 * 16, 0]


def test_beta_falls_linearly_after_the_warm_up() -> None:
    assert regularization_beta(0.19, 20, 2, 0.2) is None
    assert [regularization_beta(p, 20, 2, 0.2) for p in (0.2, 0.6, 1.0)] == pytest.approx([20, 11, 2])


def test_parametrized_layers_use_the_soft_weight() -> None:
    layer = nn.Linear(16, 6).double()
    weight = layer.weight.detach().clone()
    rounding = SoftRounding(layer.weight, double_grid(weight, SPECS['uniform']))
    nn.utils.parametrize.register_parametrization(layer, 'weight', rounding)
    layer(torch.randn(3, 16).double()).square().sum().backward()
    assert rounding.logits.grad.abs().sum() > 0
    nn.utils.parametrize.remove_parametrizations(layer, 'weight', leave_parametrized=False)
    assert torch.equal(layer.weight, weight)
