"""The change of variables leaves the composition alone, also for a padded row."""

import pytest
import torch
from torch import nn

from erq_mm.core.reparameterization import fold_, reparameterize


@pytest.mark.parametrize('integer', [True, False])
def test_layer_norm_and_linear_keep_their_composition(integer: bool) -> None:
    norm, linear = nn.LayerNorm(12), nn.Linear(12, 7)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(12).exp())
        norm.bias.copy_(torch.randn(12))
    x = torch.randn(50, 12)
    before, pad_before = linear(norm(x)), linear(torch.zeros(1, 12))
    scale, zero_point = torch.rand(12) + 0.1, torch.randint(-3, 20, (12,)).float()
    change = reparameterize(scale, zero_point, 15, integer_zero_point=integer)
    fold_(norm.weight, norm.bias, linear.weight, linear.bias, change)
    torch.testing.assert_close(linear(norm(x)), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(change.pad_value[None].float()), pad_before, rtol=1e-5, atol=1e-5)
    assert float(change.zero_point).is_integer() or not integer


def test_per_tensor_codes_equal_channel_wise_codes() -> None:
    """The point of it: quantizing y' with one scale gives the codes that channel-wise quantization gives y."""
    scale, zero_point = torch.rand(6).double() + 0.1, torch.randint(0, 16, (6,)).double()
    change = reparameterize(scale, zero_point, 15)
    y = (torch.rand(400, 6).double() * 15 - zero_point) * scale
    channelwise = (torch.round(y / scale) + zero_point).clamp(0, 15)
    y_new = y / change.ratio - change.shift
    per_tensor = (torch.round(y_new / change.scale) + change.zero_point).clamp(0, 15)
    assert (channelwise != per_tensor).double().mean() < 0.001  # ties at rounding boundaries


def test_pad_value_is_on_the_grid() -> None:
    """With integer zero points the value that stands for zero is a multiple of the scale."""
    change = reparameterize(torch.rand(9) + 0.1, torch.arange(9.0), 15)
    steps = change.pad_value / change.scale
    torch.testing.assert_close(steps, steps.round())
