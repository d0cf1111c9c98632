"""The change of variables leaves the composition alone, also for a padded row."""

import pytest
import torch
from torch import nn

from erq_mm.core.reparameterization import constant_channels, fold_, reparameterize


@pytest.mark.parametrize('statistic', ['mean', 'median'])
@pytest.mark.parametrize('integer', [True, False])
def test_layer_norm_and_linear_keep_their_composition(integer: bool, statistic: str) -> None:
    norm, linear = nn.LayerNorm(12), nn.Linear(12, 7)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(12).exp())
        norm.bias.copy_(torch.randn(12))
    x = torch.randn(50, 12)
    before, pad_before = linear(norm(x)), linear(torch.zeros(1, 12))
    scale, zero_point = torch.rand(12) + 0.1, torch.randint(-3, 20, (12,)).float()
    change = reparameterize(scale, zero_point, 15, integer_zero_point=integer, statistic=statistic)
    fold_(norm.weight, norm.bias, [(linear.weight, linear.bias)], change)
    torch.testing.assert_close(linear(norm(x)), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear(change.pad_value[None].float()), pad_before, rtol=1e-5, atol=1e-5)
    assert float(change.zero_point).is_integer() or not integer


@pytest.mark.parametrize('statistic', ['mean', 'median'])
def test_per_tensor_codes_equal_channel_wise_codes(statistic: str) -> None:
    """The point of it: quantizing y' with one scale gives the codes that channel-wise quantization gives y."""
    scale, zero_point = torch.rand(6).double() + 0.1, torch.randint(0, 16, (6,)).double()
    change = reparameterize(scale, zero_point, 15, statistic=statistic)
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


@pytest.mark.parametrize('channels', [1, 2, 9, 10])
def test_the_median_deviates_least_and_is_a_channel_scale(channels: int) -> None:
    """MOSF: the argmin over the channel scales c of mean |s_d - c|; the lower one of an even number."""
    scale, zero_point = torch.rand(channels).exp(), torch.randint(0, 16, (channels,)).float()
    change = reparameterize(scale, zero_point, 15, statistic='median')
    deviations = (scale[:, None] - scale).abs().mean(0)
    assert float(change.scale) == scale.sort().values[(channels - 1) // 2]
    assert float(deviations[scale == change.scale]) == pytest.approx(float(deviations.min()), rel=1e-6)
    assert float(change.zero_point) == zero_point.sort().values[(channels - 1) // 2]


def test_unknown_statistic() -> None:
    with pytest.raises(ValueError, match=r"statistic must be one of .'mean', 'median'., got 'mode'"):
        reparameterize(torch.ones(3), torch.zeros(3), 15, statistic='mode')


@pytest.mark.parametrize('integer', [True, False])
@pytest.mark.parametrize('value', [2.5, -40.0, 0.0])
def test_a_constant_channel_goes_into_the_bias(value: float, integer: bool) -> None:
    """Its column keeps its size, the grid of the others is theirs alone, and what is left of it is zero."""
    norm, linear, x = nn.LayerNorm(6), nn.Linear(6, 3), torch.randn(50, 6)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(6) + 0.5)
        norm.weight[2], norm.bias[2] = 0.0, value
        column, before, pad_before = linear.weight[:, 2].clone(), linear(norm(x)), linear(torch.zeros(1, 6))
        y = norm(x)
        constant = constant_channels(y.amin(0), y.amax(0))
        assert constant.tolist() == [False, False, True, False, False, False]
        scale, zero_point = torch.rand(6) + 0.1, torch.randint(0, 16, (6,)).float()
        scale[2], zero_point[2] = 1e6, 1e6  # must not matter
        change = reparameterize(
            scale, zero_point, 15, constant=constant, value=y[0].clone(), integer_zero_point=integer
        )
        fold_(norm.weight, norm.bias, [(linear.weight, linear.bias)], change)
        assert float(change.scale) == pytest.approx(float(scale[~constant].mean()), rel=1e-6)
        assert torch.equal(linear.weight[:, 2], column)
        assert torch.equal(norm(x)[:, 2], torch.zeros(50))
        torch.testing.assert_close(linear(norm(x)), before, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(linear(change.pad_value[None].float()), pad_before, rtol=1e-5, atol=2e-5)


def test_a_norm_of_constants_alone() -> None:
    everything = torch.ones(4, dtype=torch.bool)
    change = reparameterize(torch.ones(4), torch.ones(4), 15, constant=everything, value=torch.arange(4.0))
    assert (float(change.scale), float(change.zero_point)) == (1.0, 0.0)
    assert torch.equal(change.pad_value, -torch.arange(4.0).double())


@pytest.mark.parametrize(('low', 'high', 'is_constant'), [
    (2.5, 2.5, True), (2.4999, 2.5001, True), (2.4, 2.6, False), (-1e-9, 1e-9, False), (0.0, 0.0, True),
    (-3.0, -3.0, True), (0.0, 1e-6, False),
])  # fmt: skip
def test_what_is_constant(low: float, high: float, is_constant: bool) -> None:
    """Small values alone are no constant: they have a range of their own."""
    assert bool(constant_channels(torch.tensor([low]), torch.tensor([high]))) == is_constant
