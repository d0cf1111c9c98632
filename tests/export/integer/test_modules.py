"""Integer layers compute what int64 arithmetic says, for every shape."""

import copy
import io

import pytest
import torch
from torch import nn

from erq_mm.calibration.sequential.channel_grids import search_input_grid
from erq_mm.core.quantizers.channel_uniform import ChannelUniformQuantizer
from erq_mm.core.quantizers.uniform import encode
from erq_mm.core.reparameterization import Reparameterization
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest
from erq_mm.export.integer import IntegerConv2d, IntegerLinear, modules
from erq_mm.export.integer.codes import InputGrid, input_grid, integer_weight
from erq_mm.nn.layers import QuantConv2d, QuantLayer, QuantLinear

from ...convolutions import CONVOLUTIONS
from .layers import exact, quantized


def integer(layer: QuantLayer, **options: bool) -> modules.IntegerLayer:
    kind = IntegerLinear if isinstance(layer, modules.QuantLinear) else IntegerConv2d
    return kind(layer, integer_weight(layer), input_grid(layer.input_quantizer), **options).eval()


def assert_exact(layer: QuantLayer, x: torch.Tensor) -> None:
    """Equal to float32 rounding of the exact result (one multiplication and one addition)."""
    expected = exact(layer, x)
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    with torch.no_grad():
        torch.testing.assert_close(integer(layer)(x).double(), expected, rtol=2e-6, atol=1e-6 * largest)


@pytest.mark.parametrize('chunk', [7, 2**16])
@pytest.mark.parametrize('bits', [2, 3, 4, 6, 8])
def test_codes_are_those_of_the_simulation(bits: int, chunk: int, monkeypatch) -> None:
    """Also beyond both ends of the grid, and at ties."""
    monkeypatch.setattr(modules, 'CHUNK', chunk)
    grid = InputGrid(0.1, 2 ** (bits - 1) - 1, 2**bits - 1)
    x = torch.cat([torch.randn(30, 5) * 4, torch.arange(-10, 10).view(4, 5) * 0.05])
    codes = torch.empty(x.shape, dtype=torch.uint8)
    modules.encode_(codes, x, grid)
    expected = encode(x * 10, torch.tensor(1.0), torch.tensor(float(grid.zero_point)), grid.max_code)
    assert codes.max() <= grid.max_code
    near_tie = ((x * 10) % 1 - 0.5).abs() < 1e-5
    assert torch.equal(codes.float()[~near_tie], expected[~near_tie])
    layer = quantized(nn.Linear(5, 2), a_bits=bits, zero_point=grid.zero_point)
    layer.input_quantizer.set_parameters(grid.scale, grid.zero_point)
    simulated = layer.input_quantizer(x)
    torch.testing.assert_close((codes.float() - grid.zero_point) * grid.scale, simulated, rtol=1e-6, atol=0)


@pytest.mark.parametrize('bits', [3, 4, 8])
def test_a_grid_per_channel_has_the_codes_of_its_simulation(bits: int) -> None:
    quantizer = ChannelUniformQuantizer(QuantSpec(bits, grid='channel_uniform'), 24)
    ratio, shift = torch.logspace(-2, 2, 24).double(), torch.linspace(-3, 3, 24).double()
    quantizer.change_(Reparameterization(ratio, shift, torch.tensor(0.2).double(), torch.tensor(3.0).double()))
    quantizer.is_active = True
    grid, x = input_grid(quantizer), torch.randn(50, 24) * ratio
    codes = torch.empty(x.shape, dtype=torch.uint8)
    modules.encode_(codes, x, grid)
    assert torch.equal((codes.float() - grid.zero_point) * grid.scale, quantizer(x.float()))
    steps = torch.randint(-3, 2**bits - 3, (7, 24)).float()
    torch.testing.assert_close(grid.steps(grid.inputs(steps)), steps, atol=1e-3, rtol=0)


def tabled(layer: nn.Module, x: torch.Tensor, a_bits: int) -> QuantLayer:
    """A quantized layer whose input has a table of levels and a scale per channel."""
    kind, spec = QuantLinear if isinstance(layer, nn.Linear) else QuantConv2d, QuantSpec(a_bits, grid='channel_levels')
    layer = kind(layer, QuantSpec(4, 'row'), spec)
    rows = torch.cat(list(layer.rows(x)))
    search_input_grid([layer], rows, torch.ones(len(rows)), spec, 1.0).fold_into_(layer)
    layer.input_quantizer.is_active = True
    matrix = layer.weight_matrix()
    layer.install_(round_to_nearest(matrix, layer.bias, fit_weight_grid(matrix, QuantSpec(4, 'row'))))
    return layer


@pytest.mark.parametrize('bits', [2, 3, 4, 5])
def test_a_table_has_the_codes_of_its_simulation(bits: int) -> None:
    x = torch.randn(200, 24) * torch.logspace(-2, 2, 24)
    layer = tabled(nn.Linear(24, 8), x, bits)
    grid, codes = input_grid(layer.input_quantizer), torch.empty(x.shape, dtype=torch.uint8)
    modules.encode_(codes, 2 * x, grid)
    assert len(codes.unique()) <= 2**bits
    simulated = layer.input_quantizer(2 * x)
    torch.testing.assert_close((codes.float() - grid.zero_point) * grid.scale, simulated, rtol=1e-6, atol=1e-6)
    assert_exact(layer, 2 * x)


@pytest.mark.parametrize('options', CONVOLUTIONS)
def test_a_convolution_with_a_table_is_exact(options: dict) -> None:
    x = torch.randn(2, 5, 13, 17) * torch.logspace(-1, 1, 5)[:, None, None] + 0.5
    assert_exact(tabled(nn.Conv2d(5, 7, **options), x, 3), x)


@pytest.mark.parametrize('w_bits', [2, 4, 5, 6])
@pytest.mark.parametrize('a_bits', [3, 4, 8])
def test_linear_is_exact(w_bits: int, a_bits: int) -> None:
    assert_exact(quantized(nn.Linear(37, 11), w_bits, a_bits), torch.randn(50, 37) * 3)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(1, 13), (13,), (2, 3, 13), (0, 13), (2, 0, 13), (1, 1, 1, 13)])
def test_linear_takes_every_shape(shape: tuple[int, ...], bias: bool) -> None:
    layer, x = quantized(nn.Linear(13, 5, bias=bias)), torch.randn(shape)
    assert integer(layer)(x).shape == layer(x).shape
    assert_exact(layer, x)


@pytest.mark.parametrize('zero_point', [0, 1, 254, 255])
def test_zero_points_at_both_ends(zero_point: int) -> None:
    assert_exact(quantized(nn.Linear(16, 8), zero_point=zero_point), torch.randn(9, 16) * 6)
    assert_exact(quantized(nn.Conv2d(3, 4, 3, padding=1), zero_point=zero_point), torch.randn(2, 3, 6, 7) * 6)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('options', CONVOLUTIONS)
def test_convolution_is_exact_and_pads_with_zero(options: dict, bias: bool) -> None:
    layer = quantized(nn.Conv2d(5, 7, bias=bias, **options))
    for size in ((2, 5, 13, 17), (1, 5, 4, 9)):
        assert_exact(layer, torch.randn(size))


def test_convolution_without_images_and_of_one_image_without_batch() -> None:
    layer = quantized(nn.Conv2d(3, 4, 3, padding=1, stride=2))
    deployed = integer(layer)
    assert deployed(torch.zeros(0, 3, 9, 8)).shape == layer(torch.zeros(0, 3, 9, 8)).shape
    x = torch.randn(3, 9, 8)
    torch.testing.assert_close(deployed(x), layer(x))


@pytest.mark.parametrize('chunk', [11, 200, 2**16])
def test_chunks_of_images_and_of_lines_give_the_same(chunk: int, monkeypatch) -> None:
    layer, x = quantized(nn.Conv2d(3, 4, 3, padding=1)), torch.randn(5, 3, 6, 7)
    expected = integer(layer)(x)
    monkeypatch.setattr(modules, 'CHUNK', chunk)
    assert torch.equal(integer(layer)(x), expected)
    assert torch.equal(integer(layer)(x.to(memory_format=torch.channels_last)), expected)


def test_memory_order_of_the_output_is_that_of_a_convolution_unless_asked_for() -> None:
    layer, x = quantized(nn.Conv2d(3, 4, 1)), torch.randn(2, 3, 6, 7)
    assert integer(layer)(x).is_contiguous()
    last = integer(layer, channels_last=True)(x)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, integer(layer)(x))


def test_weight_is_what_the_codes_stand_for() -> None:
    layer = quantized(nn.Conv2d(3, 4, 3))
    torch.testing.assert_close(integer(layer).weight, layer.weight.detach())


def test_copies_pickles_and_state_dicts_give_the_same_output() -> None:
    layer, x = quantized(nn.Linear(13, 5)), torch.randn(4, 13)
    deployed = integer(layer)
    expected = deployed(x)
    assert torch.equal(copy.deepcopy(deployed)(x), expected)
    file = io.BytesIO()
    torch.save(deployed, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), expected)
    other = integer(quantized(nn.Linear(13, 5)))
    other(x)
    other.load_state_dict(deployed.state_dict())
    assert torch.equal(other(x), expected)


def test_another_device_is_an_error() -> None:
    with pytest.raises(RuntimeError, match='integer layers run on CPUs only, this one was moved to meta'):
        integer(quantized(nn.Linear(3, 2))).to('meta')(torch.zeros(1, 3))
