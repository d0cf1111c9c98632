"""The grids of PTQ4ViT: scalar formulas, zero, code counts, candidates and gradients."""

import pytest
import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.quantizers.adaptive_log import GELU_MINIMUM
from erq_mm.core.quantizers.learning import Learner
from erq_mm.core.spec import MIN_MAX, QuantSpec
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest, row_groups

from .quantizer_checks import check_learner, check_rounding, fitted

ALL_BITS = range(2, 9)


def normal(count: int = 3000) -> torch.Tensor:
    return torch.randn(count) * 2 + 0.5


def gelu(count: int = 3000) -> torch.Tensor:
    return torch.nn.functional.gelu(torch.randn(count) * 2)


def probabilities(count: int = 3000) -> torch.Tensor:
    return torch.rand(count).pow(6)


VALUES = {'symmetric': normal, 'twin_gelu': gelu, 'twin_softmax': probabilities}


def scalar_round(value: float, scale: float, low: int, high: int) -> float:
    return min(max(round(value / scale), low), high) * scale


def scalar_symmetric(value: float, scale: float, n: int) -> float:
    return scalar_round(value, scale, -n, n - 1)


def scalar_gelu(value: float, scale: float, n: int) -> float:
    return scalar_round(value, scale, 0, n - 1) if value >= 0 else scalar_round(value, GELU_MINIMUM / n, -n, 0)


def scalar_softmax(value: float, exponent: float, n: int) -> float:
    split = 2.0**-exponent
    if value <= split:
        return scalar_round(value, split / (n - 1), 0, n - 1)
    return max(scalar_round(value, 1 / (n - 1), 0, n - 1), split)


SCALAR = {'symmetric': scalar_symmetric, 'twin_gelu': scalar_gelu, 'twin_softmax': scalar_softmax}


def assert_nearly_all_close(found: torch.Tensor, expected: list[float]) -> None:
    """A value that lies on a rounding boundary to float32 may go either way."""
    close = torch.isclose(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    assert (~close).sum() <= 2


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', list(VALUES))
def test_rounding_is_idempotent_monotone_and_within_the_codes(grid: str, bits: int) -> None:
    x = torch.cat([VALUES[grid](), torch.zeros(1)]).sort().values
    once = check_rounding(fitted(x, bits=bits, grid=grid), x)
    assert len(once.unique()) <= 2**bits


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', list(VALUES))
def test_equals_the_formula_in_scalars(grid: str, bits: int) -> None:
    x = VALUES[grid](800)
    quantizer = fitted(x, bits=bits, grid=grid)
    expected = [SCALAR[grid](value, quantizer.parameter, 2 ** (bits - 1)) for value in x.tolist()]
    assert_nearly_all_close(quantizer.fake_quantize(x), expected)


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('exponent', [0, 1, 3, 6, 12, 19])
def test_every_split_is_idempotent_and_monotone(bits: int, exponent: int) -> None:
    """Also splits far below D_R2 / 2, where the paper's formula sends values just above the split to zero."""
    quantizer = fitted(probabilities(), bits=bits, grid='twin_softmax')
    quantizer.set_parameter(exponent)
    split = 2.0**-exponent
    x = torch.cat([probabilities(), torch.rand(500) * 4 * split, torch.tensor([split, 0.0, 1.0])]).clamp(max=1)
    once = check_rounding(quantizer, x.sort().values)
    assert len(once.unique()) <= 2**bits
    assert {0.0, split, 1.0} <= set(once.tolist())
    n = 2 ** (bits - 1)
    assert_nearly_all_close(quantizer.fake_quantize(x), [scalar_softmax(v, exponent, n) for v in x.tolist()])


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', list(VALUES))
def test_zero_is_exact(grid: str, bits: int) -> None:
    """Also when no value is near zero: padding is zero, and most of masked attention."""
    quantizer = fitted(torch.rand(100) * 0.5 + 0.5, bits=bits, grid=grid)
    assert quantizer.fake_quantize(torch.tensor([0.0, 3.7e-44])).tolist() == [0, 0]


@pytest.mark.parametrize('bits', ALL_BITS)
def test_the_gelu_grid_ends_at_the_minimum_of_gelu(bits: int) -> None:
    quantizer = fitted(gelu(), bits=bits, grid='twin_gelu')
    low, high = quantizer.bounds()
    ends = quantizer.fake_quantize(torch.tensor([-GELU_MINIMUM, -1.0, 1e4]))
    torch.testing.assert_close(ends, torch.tensor([-GELU_MINIMUM, -GELU_MINIMUM, high]))
    assert low == -GELU_MINIMUM
    quantizer.set_parameter(0.25)
    assert quantizer.bounds() == (low, 0.25 * (2 ** (bits - 1) - 1))


@pytest.mark.parametrize('bits', ALL_BITS)
def test_first_scales_are_the_published_ones(bits: int) -> None:
    """absmax / (2^(b-1) - 0.5) with the plain maximum; positive values only behind GELU; splits 2^0..2^-19."""
    x, n = torch.tensor([-3.0, 0.5, 2.0]), 2 ** (bits - 1)
    symmetric, behind_gelu = (fitted(x, bits=bits, grid=g, percentiles=MIN_MAX) for g in ('symmetric', 'twin_gelu'))
    assert float(symmetric.scale) == pytest.approx(3 / (n - 0.5))
    assert float(symmetric.zero_point) == n
    assert float(behind_gelu.scale) == pytest.approx(2 / (n - 0.5))
    assert symmetric.candidates([0.5, 1.2]) == pytest.approx([1.5 / (n - 0.5), 3.6 / (n - 0.5)])
    assert fitted(probabilities(), bits=bits, grid='twin_softmax').candidates([0.5]) == list(range(20))


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', list(VALUES))
def test_fit_has_the_least_squared_error_of_its_candidates(grid: str, bits: int) -> None:
    """By brute force over the values themselves; the histogram moves each by less than a bin."""
    x, percentiles = VALUES[grid](), (0.9, 0.99, 0.999, 1.0)
    quantizer = fitted(x, bits=bits, grid=grid, percentiles=percentiles)

    def error() -> float:
        return float((quantizer.fake_quantize(x) - x).square().sum())

    found, tried = error(), []
    for index in range(20 if grid == 'twin_softmax' else len(percentiles)):
        if grid == 'twin_softmax':
            quantizer.set_parameter(index)
        else:
            top, bottom = float(x.quantile(percentiles[index])), -float(x.quantile(1 - percentiles[index]))
            quantizer.set_parameter((max(top, bottom) if grid == 'symmetric' else top) / (2 ** (bits - 1) - 0.5))
        tried.append(error())
    assert found <= 1.03 * min(tried)


@pytest.mark.parametrize('grid', list(VALUES))
def test_nothing_but_zeros_and_no_positive_values(grid: str) -> None:
    for x in (torch.zeros(50), -torch.rand(50) * 0.1):
        if grid == 'twin_softmax':
            x = x.clamp(min=0)
        quantizer = fitted(x, bits=4, grid=grid)
        assert quantizer.is_fitted
        assert (quantizer.fake_quantize(x) - x).abs().max() <= 0.02


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('grid', list(VALUES))
def test_straight_through_gradients(grid: str, bits: int) -> None:
    """Values beyond the range, too; for the twin grid behind GELU this is its positive half."""
    x = VALUES[grid](200) * 1.5
    check_learner(fitted(VALUES[grid](), bits=bits, grid=grid), x[x >= 0] if grid == 'twin_gelu' else x)


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_below_zero_the_gelu_grid_does_not_move_with_its_scale(bits: int) -> None:
    quantizer, x = fitted(gelu(), bits=bits, grid='twin_gelu'), gelu(200) * 1.5
    gradients = []
    for values in (x.clone().requires_grad_(), x[x >= 0]):
        learner = Learner(quantizer, learn_scale=True)
        y = learner(values)
        torch.testing.assert_close(y.detach(), quantizer.fake_quantize(values.detach()), rtol=0, atol=0)
        y.sum().backward()
        gradients.append(learner.scale.grad)
        if values.requires_grad:
            low, high = quantizer.bounds()
            assert torch.equal(values.grad, ((x >= low) & (x <= high)).float())
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize('grid', list(VALUES))
def test_a_trained_scale_reaches_the_grid(grid: str) -> None:
    """Q_s(x) = s Q_1(x / s) above zero."""
    quantizer, x = fitted(VALUES[grid](), bits=4, grid=grid), VALUES[grid](100).clamp(min=0) * 0.5
    once = quantizer.fake_quantize(x)
    quantizer.set_scale(quantizer.scale * 2)
    torch.testing.assert_close(quantizer.fake_quantize(2 * x), 2 * once)


@pytest.mark.parametrize('grid', list(VALUES))
def test_loading_restores_the_grid(grid: str) -> None:
    x, target = VALUES[grid](), build_quantizer(QuantSpec(4, grid=grid))
    source = fitted(x, bits=4, grid=grid)
    assert target(x) is x
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source.fake_quantize(x))


def test_search_keeps_the_present_parameter_on_a_tie() -> None:
    quantizer, histogram = build_quantizer(QuantSpec(4, grid='symmetric')), Histogram()
    quantizer.observe(normal(), histogram)
    quantizer.fit(histogram)
    before = quantizer.parameter
    assert quantizer.search(quantizer.candidates([0.1, 0.5]), lambda: 2.5) == 2.5
    assert quantizer.parameter == before
    quantizer.search([0.3, 0.2, 0.1], lambda: abs(quantizer.parameter - 0.21))
    assert quantizer.parameter == pytest.approx(0.2)


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize(('variant', 'groups'), [('', 6), ('layer', 1), ('thirds', 3)])
def test_symmetric_weights_equal_the_formula_in_scalars(variant: str, groups: int, bits: int) -> None:
    weight, n = torch.randn(6, 40) * torch.arange(1, 7)[:, None], 2 ** (bits - 1)
    weight[:2] = 0
    quantized = round_to_nearest(
        weight, None, fit_weight_grid(weight, QuantSpec(bits, 'row', 'symmetric', variant=variant))
    )
    grid, group = quantized.grid, row_groups(6, variant)
    assert len(group.unique()) == groups and grid.scale.shape == (6, 1)
    for row in range(6):
        largest = float(weight[group == group[row]].abs().max())
        scale = largest / (n - 0.5) if largest else 1.0
        assert float(grid.scale[row]) == pytest.approx(scale)
        expected = [scalar_symmetric(value, scale, n) for value in weight[row].tolist()]
        assert_nearly_all_close(quantized.weight[row], expected)
    assert (grid.zero_point == n).all()
    assert quantized.codes.min() >= 0 and quantized.codes.max() <= 2**bits - 1


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ValueError, match="variant of grid 'symmetric' must be one of .*'layer', 'thirds'.*got 'heads'"):
        fit_weight_grid(torch.randn(4, 4), QuantSpec(4, 'row', 'symmetric', variant='heads'))
