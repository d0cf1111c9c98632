"""Power-of-two factors: scalar formula, choice of the exponents, zero, gradients."""

import pytest
import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.spec import MIN_MAX, QuantSpec

from .quantizer_checks import check_learner, check_rounding, fitted

ALL_BITS = range(2, 9)
CHANNELS = 7


def normalised(rows: int = 400) -> torch.Tensor:
    """Channels whose ranges differ by factors up to 20, as those behind a LayerNorm do."""
    return torch.randn(rows, CHANNELS) * torch.logspace(-1, 0.3, CHANNELS) + 0.1


def fit(x: torch.Tensor, bits: int):
    return fitted(x, x.shape[-1], bits=bits, grid='power_of_two_factor', percentiles=MIN_MAX)


def scalar_formula(value: float, step: float, zero_point: float, max_code: int) -> float:
    return (min(max(round(value / step) + zero_point, 0), max_code) - zero_point) * step


@pytest.mark.parametrize('bits', ALL_BITS)
def test_equals_the_formula_in_scalars(bits: int) -> None:
    """x_q = 2^alpha s (clip(round(x / (2^alpha s)) + z) - z) with s = (max - min) / (2^b - 1) / 2^3."""
    x = normalised()
    quantizer = fit(x, bits)
    scale, zero_point = float(quantizer.scale), float(quantizer.zero_point)
    assert scale == pytest.approx(float(x.max() - x.min()) / (2**bits - 1) / 8, rel=1e-5)
    assert zero_point == round(-float(x.min()) / (8 * scale))
    steps = [scale * 2 ** int(alpha) for alpha in quantizer.exponent]
    expected = [[scalar_formula(v, steps[c], zero_point, 2**bits - 1) for c, v in enumerate(row)] for row in x.tolist()]
    close = torch.isclose(quantizer.fake_quantize(x), torch.tensor(expected), atol=1e-5)
    assert (~close).sum() <= 2  # a value on a rounding boundary to float32 may go either way


@pytest.mark.parametrize('bits', ALL_BITS)
def test_rounding_is_idempotent_and_monotone_and_zero_is_exact(bits: int) -> None:
    x = normalised().sort(0).values
    quantizer = fit(x, bits)
    once = check_rounding(quantizer, x)
    assert all(len(column.unique()) <= 2**bits for column in once.T)
    assert (quantizer.fake_quantize(torch.zeros(2, CHANNELS)) == 0).all()


@pytest.mark.parametrize('bits', ALL_BITS)
def test_exponents_are_best_of_all_for_every_channel(bits: int) -> None:
    """Hence never worse than a common exponent; `x` has few values, so the histogram's bins are exact."""
    x = normalised(40)
    quantizer = fit(x, bits)
    scale, zero_point = float(quantizer.scale), float(quantizer.zero_point)
    errors = torch.tensor(
        [
            [
                sum((scalar_formula(v, scale * 2**alpha, zero_point, 2**bits - 1) - v) ** 2 for v in column)
                for column in x.T.tolist()
            ]
            for alpha in range(4)
        ]
    )
    chosen = errors.gather(0, quantizer.exponent.long()[None])[0]
    assert (chosen <= errors.min(0).values * 1.01 + 1e-6).all()
    assert chosen.sum() <= errors.sum(1).min() * (1 + 1e-3)
    assert float((quantizer.fake_quantize(x) - x).square().sum()) == pytest.approx(float(chosen.sum()), rel=1e-3)


def test_narrow_channels_get_small_exponents() -> None:
    """Half a range costs one exponent: 8 bits, symmetric ranges 1, 1/2, 1/4, 1/8."""
    x = torch.linspace(-1, 1, 4001)[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.125])
    assert fit(x, 8).exponent.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_straight_through_gradients(bits: int) -> None:
    quantizer = fit(normalised(), bits)
    quantizer.set_scale(quantizer.scale * 0.6)  # some values beyond the grid
    check_learner(quantizer, normalised(50))


def test_more_dimensions_and_empty_inputs() -> None:
    quantizer, x = fit(normalised(), 4), normalised(24)
    assert torch.equal(quantizer.fake_quantize(x.view(2, 3, 4, CHANNELS)), quantizer.fake_quantize(x).view(2, 3, 4, -1))
    assert quantizer.fake_quantize(torch.zeros(0, CHANNELS)).shape == (0, CHANNELS)


def test_loading_gives_the_same_grid() -> None:
    x = normalised()
    source, target = fit(x, 4), build_quantizer(QuantSpec(4, grid='power_of_two_factor'), CHANNELS)
    assert source.exponent.shape == (CHANNELS,) and target(x) is x
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source.fake_quantize(x))


def test_constant_channels() -> None:
    x = torch.tensor([0.0, 2.0, -1.0]).repeat(10, 1)
    quantizer, histogram = (
        build_quantizer(QuantSpec(8, grid='power_of_two_factor', percentiles=MIN_MAX), 3),
        Histogram(3),
    )
    quantizer.observe(x, histogram)
    quantizer.fit(histogram)
    torch.testing.assert_close(quantizer.fake_quantize(x), x, rtol=0.01, atol=0.01)
