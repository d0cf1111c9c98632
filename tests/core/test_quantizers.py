"""Grids: round trips, zero, code range, and independent scalar references."""

import math

import pytest
import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.spec import MIN_MAX, QuantSpec

ALL_BITS = range(2, 9)


def fitted(x: torch.Tensor, **spec: object):
    quantizer, histogram = build_quantizer(QuantSpec(**spec)), Histogram()
    quantizer.observe(x, histogram)
    quantizer.fit(histogram)
    return quantizer


@pytest.mark.parametrize('bits', ALL_BITS)
def test_uniform_equals_the_formula_in_scalars(bits: int) -> None:
    """x_q = (clamp(round(x / s) + z, 0, 2^b - 1) - z) s."""
    x = torch.randn(500) * 3 + 1
    quantizer = fitted(x, bits=bits, percentiles=MIN_MAX)
    scale, zero_point = float(quantizer.scale), float(quantizer.zero_point)
    expected = [(min(max(round(v / scale) + zero_point, 0), 2**bits - 1) - zero_point) * scale for v in x.tolist()]
    # a value that lies on a rounding boundary to float32 may go either way
    close = torch.isclose(quantizer.fake_quantize(x), torch.tensor(expected), atol=1e-5)
    assert (~close).sum() <= 2
    assert (quantizer.fake_quantize(x) - x).abs().max() <= scale * 0.5001 + 1e-6


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', ['uniform', 'log_sqrt2'])
def test_round_trip_is_idempotent_and_monotone(bits: int, grid: str) -> None:
    x = torch.rand(2000).pow(3).sort().values
    quantizer = fitted(x, bits=bits, grid=grid)
    once = quantizer.fake_quantize(x)
    torch.testing.assert_close(quantizer.fake_quantize(once), once, rtol=1e-6, atol=1e-7)
    assert (once.diff() >= 0).all()
    assert len(once.unique()) <= 2**bits + 1  # log-sqrt2 has zero beside its codes


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('grid', ['uniform', 'log_sqrt2'])
def test_zero_is_exact(bits: int, grid: str) -> None:
    """Also when no value is near zero: padding is zero."""
    quantizer = fitted(torch.rand(100) * 0.5 + 0.5, bits=bits, grid=grid)
    assert float(quantizer.fake_quantize(torch.zeros(1))) == 0


@pytest.mark.parametrize('bits', ALL_BITS)
def test_log_sqrt2_equals_the_formula_in_scalars(bits: int) -> None:
    """q = round(-2 log2(x / s)); x_q = s 2^(-ceil(q / 2)) (1 + (q mod 2)(sqrt 2 - 1)); 0 beyond the last code."""
    x = torch.rand(1000).pow(4)
    quantizer = fitted(x, bits=bits, grid='log_sqrt2')
    scale, expected = float(quantizer.scale), []
    for value in x.tolist():
        code = max(round(-2 * math.log2(value / scale)), 0)
        grid_value = scale * 2.0 ** -math.ceil(code / 2) * (1 + (code % 2) * (math.sqrt(2) - 1))
        expected.append(0.0 if code >= 2**bits else grid_value)
    torch.testing.assert_close(quantizer.fake_quantize(x), torch.tensor(expected), rtol=1e-5, atol=1e-12)


def test_log_sqrt2_ignores_masked_attention() -> None:
    """exp(-100) is a denormal or zero: it becomes zero, and does not move the scale."""
    x = torch.rand(1000)
    masked = torch.cat([x, torch.full((5000,), 3.7e-44), torch.zeros(5000)])
    plain, with_masked = (fitted(v, bits=4, grid='log_sqrt2') for v in (x, masked))
    assert float(plain.scale) == float(with_masked.scale)
    assert (with_masked.fake_quantize(masked)[1000:] == 0).all()


def test_non_integer_zero_point_shifts_the_grid() -> None:
    """Published behaviour: codes 0..3 of s = 1, z = 1.5 stand for -1.5, ... clipped to integers within [-1.5, 1.5]."""
    quantizer = build_quantizer(QuantSpec(2))
    quantizer.set_parameters(1.0, 1.5)
    x = torch.tensor([-3.0, -1.2, 0.2, 0.9, 3.0])
    torch.testing.assert_close(quantizer.fake_quantize(x), torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.5]))


@pytest.mark.parametrize('value', [0.0, 2.5, -1.75])
def test_constants_are_exact(value: float) -> None:
    quantizer = fitted(torch.full((10,), value), bits=4, percentiles=MIN_MAX)
    torch.testing.assert_close(quantizer.fake_quantize(torch.full((3,), value)), torch.full((3,), value))


def test_empty_input() -> None:
    quantizer = fitted(torch.randn(10), bits=4)
    assert quantizer.fake_quantize(torch.zeros(0, 7)).shape == (0, 7)


def test_unfitted_is_the_identity_and_loading_switches_on() -> None:
    source, target = fitted(torch.randn(100), bits=4), build_quantizer(QuantSpec(4))
    x = torch.randn(50)
    assert target(x) is x
    target.load_state_dict(source.state_dict())
    torch.testing.assert_close(target(x), source.fake_quantize(x), rtol=0, atol=0)
