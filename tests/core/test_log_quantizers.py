"""Logarithmic grids of chosen base: scalar formulas, zero, masked attention, gradients and the search."""

import math

import pytest
import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.quantizers.adaptive_log import BASES, GELU_MINIMUM
from erq_mm.core.spec import QuantSpec

from .quantizer_checks import check_learner, check_rounding, fitted

ALL_BITS = range(2, 9)


def probabilities(count: int = 2000) -> torch.Tensor:
    return torch.rand(count).pow(4)


def gelu(count: int = 2000) -> torch.Tensor:
    return torch.nn.functional.gelu(torch.randn(count) * 2)


VALUES = {'log2': probabilities, 'adaptive_log': probabilities, 'adaptive_log_gelu': gelu}


def scalar_power(value: float, scale: float, octaves: float, max_code: int) -> float:
    """k = round(-log2(x / s) / octaves), x_q = s 2^(-k octaves), 0 beyond the last code."""
    if value <= 0:
        return 0.0
    code = max(round(-math.log2(value / scale) / octaves), 0)
    return 0.0 if code > max_code else scale * 2 ** (-code * octaves)


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', list(VALUES))
def test_rounding_is_idempotent_and_monotone(grid: str, bits: int) -> None:
    x = VALUES[grid]().sort().values
    once = check_rounding(fitted(x, bits=bits, grid=grid), x)
    assert len(once.unique()) <= 2**bits + 1  # zero, or minus the offset, beside the codes


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', list(VALUES))
def test_equals_the_formula_in_scalars(grid: str, bits: int) -> None:
    x = VALUES[grid](500)
    quantizer = fitted(x, bits=bits, grid=grid)
    octaves = 1.0 if grid == 'log2' else float(quantizer.base) / 37
    assert octaves == 1 or float(quantizer.base).is_integer()
    expected = [
        scalar_power(v + quantizer.offset, float(quantizer.scale), octaves, 2**bits - 1) - quantizer.offset
        for v in x.tolist()
    ]
    close = torch.isclose(quantizer.fake_quantize(x), torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert (~close).sum() <= 2  # a value on a rounding boundary to float32 may go either way


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', ['log2', 'adaptive_log'])
def test_zero_is_exact_and_masked_attention_is_ignored(grid: str, bits: int) -> None:
    x = probabilities()
    masked = torch.cat([x, torch.full((5000,), 3.7e-44), torch.zeros(5000)])
    plain, with_masked = (fitted(v, bits=bits, grid=grid) for v in (x, masked))
    assert plain.state_dict() == with_masked.state_dict()
    assert (with_masked.fake_quantize(masked)[len(x) :] == 0).all()


@pytest.mark.parametrize('bits', ALL_BITS)
def test_the_gelu_grid_has_the_minimum_of_gelu_but_not_zero(bits: int) -> None:
    quantizer = fitted(gelu(), bits=bits, grid='adaptive_log_gelu')
    least = torch.tensor([-GELU_MINIMUM, -GELU_MINIMUM - 1e-4, -1.0])
    torch.testing.assert_close(quantizer.fake_quantize(least), torch.full((3,), -GELU_MINIMUM))
    at_zero = float(quantizer.fake_quantize(torch.zeros(1)))
    assert at_zero != 0
    if bits >= 4:  # fewer codes may not reach down to it
        assert abs(at_zero) <= GELU_MINIMUM * (2 ** (float(quantizer.base) / 74) - 1) + 1e-6


def test_log2_has_powers_of_two_only() -> None:
    quantizer = fitted(probabilities() * 0.3, bits=4, grid='log2')
    once = quantizer.fake_quantize(torch.tensor([1.0, 0.3, 0.02, 2.0**-15, 2.0**-17, 1.5]))
    assert once.tolist() == [1.0, 0.25, 2.0**-6, 2.0**-15, 0.0, 1.0]


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('grid', list(VALUES))
def test_straight_through_gradients(grid: str, bits: int) -> None:
    quantizer = fitted(VALUES[grid](), bits=bits, grid=grid)
    quantizer.set_scale(quantizer.scale * 0.7)  # some values beyond the grid
    check_learner(quantizer, VALUES[grid](300))


@pytest.mark.parametrize('bits', ALL_BITS)
def test_no_single_base_is_better(bits: int) -> None:
    """The values' squared error is at most that of the log2 and nearly the log-sqrt2 grid of the same data."""
    x = probabilities()
    errors = {
        grid: float((fitted(x, bits=bits, grid=grid).fake_quantize(x) - x).square().sum())
        for grid in ('adaptive_log', 'log_sqrt2', 'log2')
    }
    assert errors['adaptive_log'] <= 1.02 * min(errors['log_sqrt2'], errors['log2'])


def value_errors(quantizer, histogram: Histogram) -> dict[tuple[float, float], float]:
    lattice, errors = quantizer.lattice(histogram), {}
    for scale in lattice.scales:
        for base in lattice.shapes:
            values = quantizer.values_of(histogram)
            exponents = torch.log2(values + quantizer.offset)
            codes = torch.round((math.log2(scale) - exponents) * 37 / base).clamp(min=0)
            powers = torch.where(codes > quantizer.spec.max_code, 0.0, scale * torch.exp2(-codes * base / 37))
            errors[scale, base] = float(((powers - quantizer.offset - values).square() * histogram.counts[0]).sum())
    return errors


@pytest.mark.parametrize('grid', ['adaptive_log', 'adaptive_log_gelu'])
def test_search_equals_brute_force(grid: str) -> None:
    """With one step; and coarse to fine loses little."""
    quantizer, histogram = build_quantizer(QuantSpec(3, grid=grid)), Histogram(num_bins=64)
    quantizer.observe(VALUES[grid](300), histogram)
    errors = value_errors(quantizer, histogram)
    least = min(errors.values())
    quantizer.search(histogram, steps=1)
    found = errors[min(errors, key=lambda c: abs(c[0] - float(quantizer.scale)) + abs(c[1] - float(quantizer.base)))]
    assert found == pytest.approx(least, rel=1e-4)
    quantizer.search(histogram)
    found = errors[min(errors, key=lambda c: abs(c[0] - float(quantizer.scale)) + abs(c[1] - float(quantizer.base)))]
    assert found <= 1.05 * least


def test_released_bases_start_at_ten() -> None:
    quantizer = fitted(gelu(), bits=8, grid='adaptive_log_gelu', variant='released')
    assert float(quantizer.base) >= 10 > BASES[0]
    with pytest.raises(ValueError, match="variant of grid 'adaptive_log' must be one of .*'released'.*, got 'r'"):
        build_quantizer(QuantSpec(4, grid='adaptive_log', variant='r'))


@pytest.mark.parametrize('grid', list(VALUES))
def test_loading_gives_the_same_grid(grid: str) -> None:
    x = VALUES[grid]()
    source, target = fitted(x, bits=4, grid=grid), build_quantizer(QuantSpec(4, grid=grid))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source.fake_quantize(x))


@pytest.mark.parametrize('grid', ['log2', 'adaptive_log'])
def test_nothing_but_zeros(grid: str) -> None:
    quantizer = fitted(torch.zeros(30), bits=4, grid=grid)
    assert quantizer.is_fitted and (quantizer.fake_quantize(torch.zeros(3)) == 0).all()
