"""Levels of least squared error: the conditions of Lloyd and Max, known values, and the quantizers that have them."""

import copy

import pytest
import torch
from torch import Tensor

from erq_mm.core import quantizers
from erq_mm.core.clipping import search_clipped_range
from erq_mm.core.histogram import Histogram
from erq_mm.core.levels import Levels, even_levels, lloyd_max, search_levels
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.quantizers.levels import FINE_CODES, LevelsQuantizer, even_table
from erq_mm.core.reparameterization import absorb_, reparameterize
from erq_mm.core.spec import QuantSpec

# squared error of a standard normal variable on 2**b levels (J. Max, Quantizing for minimum distortion, 1960, table I)
MAX_1960 = {2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
EVEN_1960 = {2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.003495}  # the same on evenly spaced ones, table II


def quantized(levels: Levels, x: Tensor) -> Tensor:
    """Slow reference: the nearest level of every column, float64."""
    values = (levels.table[:, None] - levels.zero_point) * levels.scale
    nearest = (x.double()[None] - values[:, None]).abs().argmin(0)
    return values.gather(0, nearest)


def error_of(levels: Levels, x: Tensor) -> Tensor:
    return (quantized(levels, x) - x).square().mean(0)


def search(x: Tensor, bits: int = 4, **options: object) -> Levels:
    return search_levels(x, torch.ones(len(x)), torch.ones(x.shape[1]), bits, **options)


def laplace(rows: int, columns: int) -> Tensor:
    uniform = torch.rand(rows, columns) - 0.5
    return -uniform.sign() * (1 - 2 * uniform.abs()).clamp(min=1e-6).log()


def test_lloyd_max_by_hand() -> None:
    places, counts = torch.tensor([0.0, 1.0, 10.0, 13.0]).double(), torch.tensor([1.0, 1.0, 2.0, 1.0]).double()
    assert lloyd_max(places, counts, torch.tensor([0.0, 13.0]).double()).tolist() == [0.5, 11.0]


def test_a_level_without_values_stays() -> None:
    places, counts = torch.tensor([0.0, 1.0]).double(), torch.ones(2).double()
    assert lloyd_max(places, counts, torch.tensor([0.0, 1.0, 9.0]).double()).tolist() == [0.0, 1.0, 9.0]


@pytest.mark.parametrize('bits', MAX_1960)
def test_published_errors_of_normal_values(bits: int) -> None:
    places = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    density = (-places.square() / 2).exp()
    density /= density.sum()
    levels = lloyd_max(places, density, torch.linspace(-2, 2, 2**bits, dtype=torch.float64))
    error = (density * (places[:, None] - levels).square().amin(1)).sum()
    assert float(error) == pytest.approx(MAX_1960[bits], rel=0.01)


@pytest.mark.parametrize('bits', [2, 3, 4, 5])
@pytest.mark.parametrize('kind', ['normal', 'laplace', 'relu'])
def test_less_error_than_the_best_even_levels(bits: int, kind: str) -> None:
    torch.manual_seed(0)
    x = {'normal': torch.randn, 'laplace': laplace, 'relu': lambda *shape: torch.randn(*shape).relu()}[kind](2000, 8)
    x = x * torch.logspace(-1, 1, 8) + (0 if kind == 'relu' else torch.linspace(-30, 3, 8))
    even = even_levels(*search_clipped_range(x, torch.ones(2000), bits), bits)
    share = error_of(search(x, bits), x).sum() / error_of(even, x).sum()
    assert float(share) < (1 if kind == 'relu' else 1.03 * MAX_1960[bits] / EVEN_1960[bits])


def test_columns_of_no_importance_have_no_say_in_the_table() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1000, 2), laplace(1000, 2) * 50], 1)
    ones = torch.ones(1000)
    alone = search_levels(x[:, :2], ones, torch.ones(2), 4)
    both = search_levels(x, ones, torch.tensor([1.0, 1.0, 0.0, 0.0]), 4)
    assert torch.equal(both.table, alone.table)


def test_rows_of_no_weight_count_for_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(1000, 3)
    weights = torch.ones(1000)
    weights[500:] = 0
    far = x.clone()
    far[501:] = x[501:] * 0.5  # within the extremes, which are those of all rows
    found, same = (search_levels(values, weights, torch.ones(3), 3) for values in (x, far))
    first = x[:500]
    torch.testing.assert_close(error_of(found, first), error_of(same, first), rtol=0.05, atol=0)


@pytest.mark.parametrize('rows', [1, 2, 500])
def test_table_and_zero(rows: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(rows, 4) + torch.tensor([0.0, 5.0, -5.0, 0.5])
    levels = search(x, 3, zero='level')
    assert levels.table.shape == (8,) and bool((levels.table.diff() >= 0).all())
    assert float(levels.table[0]) >= 0 and float(levels.table[-1]) <= FINE_CODES
    assert torch.equal(quantized(levels, torch.zeros(1, 4)), torch.zeros(1, 4).double())


def test_columns_behind_a_relu_keep_their_zero() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(1000, 3).relu() * torch.tensor([1.0, 2.0, 9.0]), torch.randn(1000, 1)], 1)
    levels = search(x, margin=1.5)
    plain = search(x)
    assert bool((levels.scale > plain.scale).all())
    lowest = (levels.table[0] - levels.zero_point) * levels.scale
    assert bool((lowest[:3].abs() < levels.scale[:3] * FINE_CODES / 15 / 2).all()) and float(lowest[3]) < -1


@pytest.mark.parametrize('value', [0.0, -3.0, 2.5])
def test_constants(value: float) -> None:
    x = torch.full((10, 3), value)
    assert torch.isfinite(quantized(search(x), x)).all()
    x[:, 1] = torch.linspace(-1, 1, 10)
    alone = search(x[:, 1:2])
    assert torch.equal(search(x).table, alone.table)


def fitted(spec: QuantSpec, x: Tensor) -> tuple[LevelsQuantizer, Levels, Tensor, Tensor]:
    """Return a quantizer of channels, its levels, and a layer's weight and bias behind it."""
    levels = search(x, spec.bits)
    change = reparameterize(levels.scale, levels.zero_point, FINE_CODES, table=levels.table)
    quantizer = build_quantizer(spec, x.shape[1])
    quantizer.set_table(levels.table)
    quantizer.change_(change)
    weight, bias = torch.randn(5, x.shape[1]), torch.randn(5)
    changed = weight.clone(), bias.clone()
    absorb_(*changed, change)
    quantizer.is_active = True
    return quantizer, levels, (weight, bias), changed


@pytest.mark.parametrize('bits', [2, 3, 4, 7])
def test_layer_and_quantizer_together_have_the_levels_of_every_channel(bits: int) -> None:
    torch.manual_seed(0)
    x = laplace(400, 6) * torch.logspace(-2, 1, 6) + torch.tensor([0, 3, -20, 0.1, 7, 0])
    quantizer, levels, plain, changed = fitted(QuantSpec(bits, grid='channel_levels'), x)
    expected = quantized(levels, x) @ plain[0].double().T + plain[1]
    found = quantizer(x) @ changed[0].T + changed[1]
    # rounded to 256 codes first, a value less than half a code from the middle between levels may go either way
    unlike = ~torch.isclose(found.double(), expected, rtol=1e-3, atol=1e-3).all(1)
    values = (levels.table[:, None] - levels.zero_point) * levels.scale
    middles = (values[1:] + values[:-1]) / 2
    is_close = ((x[None] - middles[:, None]).abs() <= 0.5001 * levels.scale).any(0).any(1)
    assert not bool((unlike & ~is_close).any())


def test_zero_of_the_changed_variable_is_a_level() -> None:
    """It stands for constant channels, whose value is in the bias."""
    levels = Levels(torch.ones(3), torch.tensor([90.0, 100.0, 110.0]), torch.tensor([0.0, 80.0, 125.0, 255.0]))
    change = reparameterize(levels.scale, levels.zero_point, FINE_CODES, table=levels.table)
    assert float(change.zero_point) == 80
    quantizer = build_quantizer(QuantSpec(2, grid='levels'))
    quantizer.set_table(levels.table)
    quantizer.set_parameters(change.scale, change.zero_point)
    assert quantizer.fake_quantize(torch.tensor([0.0, 0.3, 30.0])).tolist() == [0.0, 0.0, 45.0]


def test_a_table_of_8_bits_is_the_uniform_grid() -> None:
    x = torch.randn(300, 3) * 4
    uniform, levels = (build_quantizer(QuantSpec(8, grid=grid)) for grid in ('uniform', 'levels'))
    for quantizer in (uniform, levels):
        quantizer.set_parameters(0.05, 100)
    assert torch.equal(uniform.fake_quantize(x), levels.fake_quantize(x))
    assert uniform.bounds() == levels.bounds()


@pytest.mark.parametrize('bits', [2, 4, 8])
def test_fit_takes_even_levels_with_zero(bits: int) -> None:
    """2, 4 and 8 bits have 3, 15 and 255 steps, of which 255 is a multiple: the levels are those of a uniform grid."""
    torch.manual_seed(0)
    x = torch.randn(5000) + 1
    uniform, levels = (build_quantizer(QuantSpec(bits, grid=grid)) for grid in ('uniform', 'levels'))
    for quantizer in (uniform, levels):
        histogram = Histogram()
        quantizer.observe(x[:, None], histogram)
        quantizer.fit(histogram)
    assert torch.equal(levels.table, even_table(bits))
    assert levels.fake_quantize(torch.zeros(1)).item() == 0
    # less than half a fine code from the middle between levels, the way through 256 codes may go the other way
    fine = float(levels.scale)
    is_same = (uniform.fake_quantize(x) - levels.fake_quantize(x)).abs() < 1e-5
    places = x / float(uniform.scale)
    to_middle = ((places - places.floor()) - 0.5).abs() * float(uniform.scale)
    assert bool((is_same | (to_middle <= 0.5001 * fine)).all())


@pytest.mark.parametrize('grid', ['levels', 'channel_levels'])
def test_state_and_shapes(grid: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 6)
    if grid == 'levels':
        quantizer = build_quantizer(QuantSpec(3, grid=grid), 6)
        quantizer.set_table(torch.tensor([0, 70, 100, 120, 130, 150, 190, 255]))
        quantizer.set_parameters(0.03, 120)
    else:
        quantizer = fitted(QuantSpec(3, grid=grid), x)[0]
    expected = quantizer.fake_quantize(x)
    assert len(expected[:, 0].unique()) <= 8
    again = build_quantizer(QuantSpec(3, grid=grid), 6)
    again.load_state_dict(quantizer.state_dict())
    assert again.is_active and torch.equal(again(x), expected)
    assert torch.equal(copy.deepcopy(again)(x), expected)
    assert torch.equal(again(x.view(5, 10, 6).transpose(0, 1)), expected.view(5, 10, 6).transpose(0, 1))
    assert again(x[:0]).shape == (0, 6) and again(x.bfloat16()).dtype == torch.bfloat16
    quantizer.set_scale(quantizer.numbers['scale'] * 2)
    if grid == 'levels':  # scale-equivariant, as training takes for granted
        assert torch.equal(quantizer.fake_quantize(2 * x), 2 * expected)


@pytest.mark.parametrize('chunk', [1, 30, 64, 1000])
@pytest.mark.parametrize('grid', ['levels', 'channel_levels'])
def test_rows_are_the_same_in_any_chunks(grid: str, chunk: int, monkeypatch) -> None:
    x = laplace(50, 6)
    quantizer = build_quantizer(QuantSpec(4, grid=grid), 6)
    quantizer.set_even(0.3, 7)
    wanted = quantizer.fake_quantize(x[:, None])[:, 0]  # more than two dimensions go at once
    monkeypatch.setattr(quantizers.levels, 'CHUNK', chunk)
    assert torch.equal(quantizer.fake_quantize(x), wanted)
    assert quantizer.fake_quantize(x[:0]).shape == (0, 6)


def test_nan_passes_and_infinity_clips() -> None:
    quantizer = build_quantizer(QuantSpec(2, grid='levels'))
    quantizer.set_table(torch.tensor([0, 50, 80, 255]))
    quantizer.set_parameters(0.5, 50.0)
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.1])
    torch.testing.assert_close(
        quantizer.fake_quantize(x), torch.tensor([torch.nan, 102.5, -25.0, 0.0]), equal_nan=True, rtol=0, atol=0
    )
