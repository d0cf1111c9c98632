"""The tangent grid: scalar formula, where its levels are dense, zero, gradients and the search."""

import math

import pytest
import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.spec import QuantSpec

from .quantizer_checks import check_learner, check_rounding, fitted

ALL_BITS = range(2, 9)
PERCENTILES = (0.999, 0.9999, 0.99999, 1.0)
VARIANTS = {'both': 0.5, 'ones': 0.0}


def probabilities(count: int = 2000) -> torch.Tensor:
    return torch.rand(count).pow(3)


def fit(x: torch.Tensor, bits: int, variant: str):
    return fitted(x, bits=bits, grid='tan', variant=variant, percentiles=PERCENTILES)


def scalar_tan(value: float, s: float, a: float, c: float, max_code: int) -> float:
    """f(u) = (tan(a (u - c)) + tan(a c)) / (tan(a (1 - c)) + tan(a c)); s f^-1(round(max_code f(x / s)) / max_code)."""
    span = math.tan(a * (1 - c)) + math.tan(a * c)
    u = min(max(value / s, 0), 1)
    code = round(max_code * (math.tan(a * (u - c)) + math.tan(a * c)) / span)
    return s * (c + math.atan(code / max_code * span - math.tan(a * c)) / a)


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('variant', list(VARIANTS))
def test_equals_the_formula_in_scalars(bits: int, variant: str) -> None:
    x = probabilities(500)
    quantizer = fit(x, bits, variant)
    arguments = float(quantizer.scale), float(quantizer.steepness), VARIANTS[variant], 2**bits - 1
    expected = torch.tensor([scalar_tan(v, *arguments) for v in x.tolist()])
    close = torch.isclose(quantizer.fake_quantize(x), expected, rtol=1e-4, atol=2e-6)
    assert (~close).sum() <= 2  # a value on a rounding boundary to float32 may go either way


@pytest.mark.parametrize('bits', ALL_BITS)
@pytest.mark.parametrize('variant', list(VARIANTS))
def test_rounding_is_idempotent_and_monotone_and_zero_is_exact(bits: int, variant: str) -> None:
    x = torch.cat([torch.zeros(5), torch.full((5,), 3.7e-44), probabilities().sort().values])
    quantizer = fit(x, bits, variant)
    once = check_rounding(quantizer, x)
    assert (once[:10] == 0).all()
    assert len(once.unique()) <= 2**bits
    torch.testing.assert_close(quantizer.fake_quantize(torch.full((1,), 9.0)), quantizer.scale[None])


@pytest.mark.parametrize('steepness', [0.5, 1.5, 2.9])
def test_levels_are_dense_at_both_ends(steepness: float) -> None:
    """Spacing grows to the middle and falls from there; at the ends it is sin(a) / a of the uniform one."""
    quantizer = build_quantizer(QuantSpec(8, grid='tan'))
    quantizer.set_candidate((1.0, steepness))
    levels = quantizer.fake_quantize(torch.linspace(0, 1, 200_000)).unique()
    spacing = levels.double().diff()
    assert len(levels) == 256
    middle = len(spacing) // 2
    assert (spacing[: middle + 1].diff() >= -1e-6).all() and (spacing[middle:].diff() <= 1e-6).all()
    torch.testing.assert_close(spacing, spacing.flip(0), rtol=0, atol=1e-6)
    assert float(spacing[0]) * 255 == pytest.approx(math.sin(steepness) / steepness, rel=0.05)


def test_the_other_variant_is_dense_near_one_only() -> None:
    quantizer = build_quantizer(QuantSpec(6, grid='tan', variant='ones'))
    quantizer.set_candidate((2.0, 1.4))
    spacing = quantizer.fake_quantize(torch.linspace(0, 2, 200_000)).unique().diff()
    assert (spacing.diff() < 0).all()
    assert spacing[0] > 2 / 63 > spacing[-1]


@pytest.mark.parametrize('bits', [2, 4, 8])
@pytest.mark.parametrize('variant', list(VARIANTS))
def test_straight_through_gradients(bits: int, variant: str) -> None:
    quantizer = fit(probabilities(), bits, variant)
    quantizer.set_scale(quantizer.scale * 0.7)  # some values beyond the grid
    check_learner(quantizer, probabilities(300))


@pytest.mark.parametrize('bits', [2, 3, 8])
@pytest.mark.parametrize('variant', list(VARIANTS))
def test_search_equals_brute_force(bits: int, variant: str) -> None:
    """Over 32 steepnesses and all quantiles; a nearly uniform grid is among them."""
    spec = QuantSpec(bits, grid='tan', variant=variant, percentiles=PERCENTILES)
    quantizer, histogram = build_quantizer(spec), Histogram(num_bins=128)
    quantizer.observe(probabilities(), histogram)
    quantizer.fit(histogram)
    c, steepest = VARIANTS[variant], 0.98 * math.pi / 2 / max(VARIANTS[variant], 1 - VARIANTS[variant])
    errors = {}
    for s in (float(histogram.quantile(p)) for p in PERCENTILES):
        for a in torch.linspace(0.1, steepest, 32, dtype=torch.float64).tolist():
            pairs = zip(histogram.centres()[0].tolist(), histogram.counts[0].tolist(), strict=True)
            errors[s, a] = sum(n * (scalar_tan(v, s, a, c, 2**bits - 1) - v) ** 2 for v, n in pairs)
    best = min(errors, key=errors.get)
    assert (float(quantizer.scale), float(quantizer.steepness)) == pytest.approx(best, rel=1e-5)


def test_masked_attention_does_not_move_the_grid() -> None:
    x = probabilities()
    masked = torch.cat([x, torch.zeros(20_000), torch.full((20_000,), 3.7e-44)])
    plain, with_masked = (fit(v, 4, 'both') for v in (x, masked))
    assert plain.state_dict() == with_masked.state_dict()


def test_loading_gives_the_same_grid() -> None:
    x = probabilities()
    source, target = fit(x, 4, 'ones'), build_quantizer(QuantSpec(4, grid='tan', variant='ones'))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source.fake_quantize(x))
    nan = target(torch.tensor([float('nan'), 0.5]))
    assert nan[0].isnan() and not nan[1].isnan()


def test_nothing_but_zeros() -> None:
    quantizer = fit(torch.zeros(30), 4, 'both')
    assert quantizer.is_fitted and (quantizer.fake_quantize(torch.zeros(3)) == 0).all()


def test_unknown_variants_are_refused() -> None:
    with pytest.raises(ValueError, match="variant of grid 'tan' must be one of .*'both', 'ones'.*, got 'zeros'"):
        build_quantizer(QuantSpec(4, grid='tan', variant='zeros'))
