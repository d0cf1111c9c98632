"""Layers as rows: what the closed-form steps see is what the layer computes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from erq_mm.calibration.sequential.channel_grids import search_input_grid
from erq_mm.core.spec import QuantSpec
from erq_mm.core.weight_grid import fit_weight_grid, round_to_nearest
from erq_mm.nn import QuantConv2d, QuantLinear, QuantMatMul, layers
from erq_mm.nn.layers import why_not_quantizable

from ..convolutions import CONVOLUTIONS

W, A = QuantSpec(4, 'row'), QuantSpec(4)


@pytest.mark.parametrize('rows_per_chunk', [1, 40, 8192])
@pytest.mark.parametrize('options', CONVOLUTIONS)
def test_im2col_rows_times_weight_is_the_convolution(options: dict, rows_per_chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(layers, 'ROWS_PER_CHUNK', rows_per_chunk)
    conv = nn.Conv2d(5, 7, **options)
    quantized, x = QuantConv2d(conv, W, A), torch.randn(2, 5, 13, 17)
    expected = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation)
    rows = torch.cat(list(quantized.rows(x)))
    by_rows = (rows @ quantized.weight_matrix().T).view(2, *expected.shape[2:], 7).permute(0, 3, 1, 2)
    torch.testing.assert_close(by_rows, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quantized(x), conv(x))


@pytest.mark.parametrize('options', CONVOLUTIONS)
def test_a_grid_of_every_channel_is_that_of_the_rows_and_padding_stays_zero(options: dict) -> None:
    """The quantizer's own coordinates are folded into the weight: switched off, the layer is the float one."""
    conv, x = nn.Conv2d(5, 7, **options), torch.randn(2, 5, 13, 17) * torch.logspace(-1, 1, 5)[:, None, None] + 0.3
    expected, spec = conv(x).detach(), QuantSpec(4, grid='channel_uniform')
    layer = QuantConv2d(conv, W, spec)
    rows = torch.cat(list(layer.rows(x)))
    taps = layer.per_channel(rows)
    assert torch.equal(taps[-1], rows[:, taps.shape[0] - 1 :: taps.shape[0]])
    search_input_grid([layer], rows, torch.ones(len(rows)), spec, 1.0).fold_into_(layer)
    layer.input_quantizer.is_active = False
    torch.testing.assert_close(layer(x).detach(), expected, rtol=1e-4, atol=1e-4)
    layer.input_quantizer.is_active = True
    by_rows = layer.quantized_rows(rows) @ layer.weight_matrix().T + layer.bias
    by_rows = by_rows.view(2, *expected.shape[2:], 7).permute(0, 3, 1, 2)
    torch.testing.assert_close(layer(x), by_rows, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(layer(x[0]), layer(x)[0], rtol=1e-4, atol=1e-4)


def test_installed_weight_is_on_its_grid_and_its_codes_come_back() -> None:
    layer = QuantLinear(nn.Linear(20, 6), W, A)
    matrix = layer.weight_matrix().clone()
    assert not layer.has_quantized_weight
    quantized = round_to_nearest(matrix, layer.bias.detach(), fit_weight_grid(matrix, W))
    layer.install_(quantized)
    codes = layer.weight / layer.weight_scale + layer.weight_zero_point
    torch.testing.assert_close(codes, quantized.codes)
    assert layer.has_quantized_weight


def test_empty_inputs() -> None:
    assert QuantLinear(nn.Linear(5, 3), W, A)(torch.zeros(0, 5)).shape == (0, 3)
    assert list(QuantConv2d(nn.Conv2d(2, 3, 1), W, A).rows(torch.zeros(0, 2, 4, 4))) == []
    assert QuantMatMul(A, A)(torch.zeros(0, 2, 3), torch.zeros(0, 3, 4)).shape == (0, 2, 4)


def test_only_a_layer_that_needs_a_bias_gets_one() -> None:
    assert QuantLinear(nn.Linear(5, 3, bias=False), W, A).bias is None
    assert not QuantLinear(nn.Linear(5, 3, bias=False), W, A, create_bias=True).bias.any()


@pytest.mark.parametrize(
    ('layer', 'word'),
    [
        (nn.ConvTranspose2d(4, 4, 2), 'transposed'),
        (nn.Conv2d(4, 4, 3, groups=2), 'groups=2'),
        (nn.Conv2d(4, 4, 3, padding='same'), "padding='same'"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode='reflect'), 'reflect'),
    ],
)
def test_layers_that_stay_float_say_why(layer: nn.Module, word: str) -> None:
    assert word in why_not_quantizable(layer)


def test_quantized_layer_refuses_a_float_checkpoint() -> None:
    model = nn.Sequential(QuantLinear(nn.Linear(5, 3), W, A))
    with pytest.raises(ValueError, match='0 is quantized and the checkpoint is not: it lacks .*0.weight_scale'):
        model.load_state_dict(nn.Sequential(nn.Linear(5, 3)).state_dict(), strict=False)
