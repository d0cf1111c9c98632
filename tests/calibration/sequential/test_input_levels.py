"""Tables of levels in the recipe: where it has them, what they bring, and the cells of a table."""

import copy

import pytest
import torch
from torch import nn

import erq_mm
from erq_mm.calibration.recipes import resolve_recipe
from erq_mm.calibration.sequential.channel_grids import published_channel_grid, search_channel_grid
from erq_mm.calibration.sequential.ranges import fit_tensor_
from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.quantizers.levels import FINE_CODES, LevelsQuantizer, even_table
from erq_mm.core.quantizers.uniform import UniformQuantizer
from erq_mm.core.spec import EVEN_GRIDS, MOST_TABLE_BITS, QuantSpec

from .test_sequential import batches, error_of, mlp

TABLED = {
    'post_norm': 'levels',
    'linear_input': 'channel_levels',
    'post_gelu': 'channel_levels',
    'conv_input': 'channel_levels',
}


@pytest.mark.parametrize('bits', range(2, 9))
@pytest.mark.parametrize('role', TABLED)
def test_where_the_recipe_has_tables(role: str, bits: int) -> None:
    grid = TABLED[role] if bits <= MOST_TABLE_BITS else EVEN_GRIDS[TABLED[role]]
    assert resolve_recipe('serq').input_spec(role, bits).grid == grid
    assert resolve_recipe({'type': 'serq', 'deploy': True}).input_spec(role, bits).grid == grid
    assert resolve_recipe({'type': 'serq', 'grids': 'uniform'}).input_spec(role, bits).grid == EVEN_GRIDS[TABLED[role]]


def convolutions() -> nn.Sequential:
    parts = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 4, 3)]
    return nn.Sequential(*parts).eval()


@pytest.mark.parametrize('bits', [3, 4])
@pytest.mark.parametrize('kind', ['mlp', 'convolutions'])
def test_less_error_on_inputs_that_did_not_calibrate(bits: int, kind: str) -> None:
    total = {'own': 0.0, 'uniform': 0.0}
    for seed in range(4):
        torch.manual_seed(seed)
        model = mlp() if kind == 'mlp' else convolutions()
        images = batches(5) if kind == 'mlp' else [torch.randn(2, 3, 12, 12) for _ in range(5)]
        for grids in total:
            quantized = copy.deepcopy(model)
            recipe = {'type': 'serq', 'grids': grids}
            erq_mm.quantize_(quantized, lambda m, images=images: [m(x) for x in images[:4]], recipe, 8, bits, 'all')
            total[grids] += error_of(model, quantized, images[4])
            tabled = [m for m in quantized.modules() if isinstance(m, LevelsQuantizer)]
            assert bool(tabled) == (grids == 'own') and all(m.is_active for m in tabled)
    assert total['own'] < 0.98 * total['uniform']


def test_ranges_of_histograms_have_even_levels() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 5) * torch.tensor([1.0, 2.0, 0.1, 9.0, 1.0]) + 3
    histogram = Histogram(5)
    histogram.update(x.T.contiguous())
    levels = published_channel_grid(histogram, QuantSpec(4, 'channel', 'levels'))
    uniform = published_channel_grid(histogram, QuantSpec(4, 'channel'))
    assert torch.equal(levels.table, even_table(4).double()) and uniform.table is None
    change, other = levels.change, uniform.change
    torch.testing.assert_close(change.ratio, other.ratio)
    torch.testing.assert_close(change.scale * FINE_CODES / 15, other.scale)


def test_a_channel_grid_of_one_row_and_of_constants() -> None:
    for x in (torch.randn(1, 4), torch.tensor([[1.0, 0.0, -2.0, 5.0]]).repeat(20, 1)):
        for spec in (QuantSpec(3, 'channel', 'levels'), QuantSpec(3, 'channel')):
            grid = search_channel_grid(x, torch.ones(len(x)), torch.ones(4), spec, 1.1)
            quantizer = build_quantizer(QuantSpec(3, grid=spec.grid))
            grid.install_(quantizer)
            y = grid.change.apply(x)  # a constant is all in the shift
            torch.testing.assert_close(quantizer.fake_quantize(y), torch.zeros_like(y), atol=1e-6, rtol=0)


@pytest.mark.parametrize('grid', ['channel_levels', 'channel_uniform'])
def test_channels_that_zeros_join_are_scaled_and_not_moved(grid: str) -> None:
    x = torch.stack([torch.randn(4000) + 0.3, 9 * torch.rand(4000), -torch.rand(4000), torch.full((4000,), 2.0)], 1)
    x = torch.cat([x, torch.zeros(4000, 1)], 1)
    spec = QuantSpec(4, grid=grid)
    found = search_channel_grid(x, torch.ones(4000), torch.ones(5), spec, 1.1, needs_zero=True)
    assert not found.change.shift.any()
    quantizer = build_quantizer(spec, 5)
    found.install_(quantizer)
    assert not quantizer.fake_quantize(torch.zeros(1, 5)).any()
    error = quantizer.fake_quantize(x) * found.change.ratio - x
    assert (error.square().mean(0) <= 0.02 * x.square().mean(0)).all()


def test_of_channels_of_other_widths_a_convolution_sees_each_on_its_own_grid() -> None:
    """Three bits for channels of widths 1 to 100: with one range the narrow ones would be zero."""
    torch.manual_seed(0)
    widths = torch.logspace(0, 2, 6)[:, None, None]
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3, padding=1)).eval()
    with torch.no_grad():
        model[0].weight.mul_(widths[..., None]), model[0].bias.zero_()
        model[1].weight.div_(widths)
    images = [torch.randn(2, 3, 12, 12) for _ in range(5)]
    errors = {}
    for grids in ('own', 'uniform', 'published'):
        quantized = copy.deepcopy(model)
        recipe = {'type': 'serq', 'grids': grids}
        erq_mm.quantize_(quantized, lambda m: [m(x) for x in images[:4]], recipe, 8, 3, 'all', {'0': 'float'})
        errors[grids] = error_of(model, quantized, images[4])
    assert errors['own'] < errors['uniform'] < 0.3 * errors['published']


def test_no_values_leave_it_unfitted() -> None:
    quantizer = build_quantizer(QuantSpec(4))
    fit_tensor_(quantizer, torch.zeros(0, 3), 1.1)
    assert not quantizer.is_fitted


def test_what_is_clipped_begins_half_a_level_beyond_the_last() -> None:
    """Levels -50, 0, 30 and 90: clipped is what lies below -75 or above 120."""
    quantizer = build_quantizer(QuantSpec(2, grid='levels'))
    quantizer.set_table(torch.tensor([0, 50, 80, 140]))
    quantizer.set_parameters(1.0, 50.0)
    assert quantizer.bounds() == (-50, 205) and quantizer.limits() == (-75, 120)
    uniform = UniformQuantizer(QuantSpec(2))
    uniform.set_parameters(2.0, 1.0)
    assert uniform.limits() == (-3, 5)
