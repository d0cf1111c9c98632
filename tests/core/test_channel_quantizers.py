"""A grid per channel that the weight takes in, and the normalised logarithmic grid of a softmax."""

import pytest
import torch

from erq_mm.core.quantizers import build_quantizer
from erq_mm.core.reparameterization import Reparameterization, absorb_, reparameterize
from erq_mm.core.scale_search import affine_parameters
from erq_mm.core.spec import QuantSpec

CHANNELS = 6


def channels(rows: int = 300) -> torch.Tensor:
    return torch.randn(rows, CHANNELS) * torch.logspace(-2, 1, CHANNELS) + torch.tensor([0, 3, -20, 0.1, 7, 0])


def change_of(x: torch.Tensor, bits: int) -> tuple[Reparameterization, torch.Tensor, torch.Tensor]:
    scale, zero_point = affine_parameters(x.amin(0).double(), x.amax(0).double(), 2**bits - 1)
    return reparameterize(scale, zero_point, 2**bits - 1), scale, zero_point


@pytest.mark.parametrize('bits', [3, 4, 8])
def test_layer_and_quantizer_together_quantize_every_channel_on_its_own_grid(bits: int) -> None:
    """(W ratio) y_q + b' = W x_q + b with x_q = (clip(round(x / s_c) + z_c) - z_c) s_c."""
    x, weight, bias = channels(), torch.randn(4, CHANNELS), torch.randn(4)
    change, scale, zero_point = change_of(x, bits)
    codes = (torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1)
    expected = (codes - zero_point) * scale @ weight.double().T + bias
    quantizer = build_quantizer(QuantSpec(bits, grid='channel_uniform'), CHANNELS)
    quantizer.change_(change)
    absorb_(weight, bias, change)
    found = quantizer.fake_quantize(x) @ weight.T + bias
    close = torch.isclose(found.double(), expected, rtol=1e-3, atol=1e-3).all(1)
    assert (~close).sum() <= 3  # a value on a rounding boundary to float32 may go either way


def test_switched_off_it_still_changes_the_variables() -> None:
    """So that with all quantizers off the model has the float model's function."""
    x, weight, bias = channels(), torch.randn(4, CHANNELS), torch.randn(4)
    expected = x @ weight.T + bias
    quantizer = build_quantizer(QuantSpec(4, grid='channel_uniform'), CHANNELS)
    assert torch.equal(quantizer(x), x)
    change, _, _ = change_of(x, 4)
    quantizer.change_(change)
    absorb_(weight, bias, change)
    torch.testing.assert_close(quantizer(x) @ weight.T + bias, expected, rtol=1e-4, atol=1e-4)


def test_state_survives_a_checkpoint() -> None:
    x = channels()
    quantizer, again = (build_quantizer(QuantSpec(4, grid='channel_uniform'), CHANNELS) for _ in range(2))
    quantizer.change_(change_of(x, 4)[0])
    again.load_state_dict(quantizer.state_dict())
    assert again.is_active
    assert torch.equal(again(x), quantizer.fake_quantize(x))


@pytest.mark.parametrize('shape', [(0, CHANNELS), (1, CHANNELS), (2, 3, CHANNELS)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    quantizer = build_quantizer(QuantSpec(4, grid='channel_uniform'), CHANNELS)
    quantizer.change_(change_of(channels(), 4)[0])
    assert quantizer.fake_quantize(torch.randn(shape)).shape == shape


def test_softmax_grid_worked_by_hand() -> None:
    """Codes of [.5, .25, .2, .05] at one octave: 0, 1, 1 (log2 2.5 = 1.3), 3 (log2 10 = 3.3); two bits have code 3."""
    quantizer = build_quantizer(QuantSpec(2, grid='log_normalised'))
    quantizer.set_parameters(1.0)
    powers = torch.tensor([1, 0.5, 0.5, 0.125])
    torch.testing.assert_close(
        quantizer.fake_quantize(torch.tensor([[0.5, 0.25, 0.2, 0.05]])), (powers / powers.sum())[None]
    )
    assert float(quantizer.fake_quantize(torch.tensor([0.9, 0.01]))[1]) == 0  # beyond the last code


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
def test_softmax_rows_sum_to_one_and_masked_places_stay_zero(bits: int) -> None:
    logits = 3 * torch.randn(5, 2, 7, 7)
    logits[..., 4:] -= 100
    quantizer = build_quantizer(QuantSpec(bits, grid='log_normalised'))
    quantizer.set_parameters(0.5)
    values = quantizer.fake_quantize(logits.softmax(-1))
    torch.testing.assert_close(values.sum(-1), torch.ones(5, 2, 7))
    assert not values[..., 4:].any() and (values >= 0).all()
    constant = torch.full((5, 2, 7, 3), 2.5)
    torch.testing.assert_close(values @ constant, torch.full((5, 2, 7, 3), 2.5))


def test_softmax_of_one_place_is_exact() -> None:
    quantizer = build_quantizer(QuantSpec(4, grid='log_normalised'))
    quantizer.set_parameters(0.5)
    assert torch.equal(quantizer.fake_quantize(torch.ones(3, 1)), torch.ones(3, 1))
    assert torch.isfinite(quantizer.fake_quantize(torch.zeros(3, 4))).all()
