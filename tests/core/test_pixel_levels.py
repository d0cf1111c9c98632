"""Exact pixels: all 256 values of every channel bit for bit, zero padding within half a level, and what is no pixel."""

import copy

import pytest
import torch
import torch.nn.functional as F

from erq_mm.core.histogram import Histogram
from erq_mm.core.pixel_levels import PixelLevels, pixel_levels
from erq_mm.core.quantizers import PixelQuantizer, build_quantizer
from erq_mm.core.quantizers.learning import Learner
from erq_mm.core.spec import QuantSpec

NORMALISATIONS = {
    'ImageNet, RGB': ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    'ImageNet, BGR of Caffe': ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
    'Inception': ((127.5,) * 3, (127.5,) * 3),
    'timm, in float64': (tuple(255 * v for v in (0.485, 0.456, 0.406)), tuple(255 * v for v in (0.229, 0.224, 0.225))),
    'grey': ((33.318421,), (78.567495,)),
    'not normalised': ((0.0,), (1.0,)),
}
LEVELS = {name: PixelLevels(*numbers) for name, numbers in NORMALISATIONS.items()}


def normalised(pixels: torch.Tensor, levels: PixelLevels) -> torch.Tensor:
    """Return what a data preprocessor makes of pixels (n, channels, height, width)."""
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (levels.mean, levels.deviation))
    return (pixels.float() - mean) / deviation


def all_pixels(levels: PixelLevels) -> torch.Tensor:
    """Return images that have every value in every channel, (1, channels, 16, 16)."""
    order = [torch.randperm(256).view(16, 16) for _ in levels.mean]
    return torch.stack(order)[None]


def ready(levels: PixelLevels) -> PixelQuantizer:
    quantizer = build_quantizer(QuantSpec(8, grid='pixels'), len(levels.mean))
    quantizer.set_levels(levels)
    quantizer.fit(Histogram(1))
    quantizer.is_active = True
    return quantizer


@pytest.mark.parametrize('levels', LEVELS.values(), ids=LEVELS)
def test_every_value_of_every_channel_comes_back_bit_for_bit(levels: PixelLevels) -> None:
    x = normalised(all_pixels(levels), levels)
    assert torch.equal(ready(levels)(x), x)
    assert levels.why_not(x) is None


@pytest.mark.parametrize('levels', LEVELS.values(), ids=LEVELS)
def test_zeros_of_padding_move_by_half_a_level_at_most(levels: PixelLevels) -> None:
    """They become (round(m_c) - m_c) / d_c."""
    mean, deviation = (torch.tensor(values) for values in (levels.mean, levels.deviation))
    moved = ready(levels)(torch.zeros(1, len(mean), 1, 1)).flatten()
    torch.testing.assert_close(moved, (mean.round() - mean) / deviation, rtol=0, atol=1e-7)
    assert (moved.abs() <= 0.5 / deviation * (1 + 1e-5)).all()


def test_values_between_levels_go_to_the_nearest_and_beyond_them_to_the_ends() -> None:
    levels = LEVELS['ImageNet, RGB']
    pixels = torch.empty(2, 3, 8, 8).uniform_(-40, 300)
    expected = normalised(pixels.round().clamp(0, 255), levels)
    assert torch.equal(ready(levels)(normalised(pixels, levels)), expected)
    low, high = ready(levels).bounds()
    assert (expected >= low).all() and (expected <= high).all()


def test_patches_as_rows_are_those_of_the_quantized_image() -> None:
    """Searches see rows of im2col, channel after channel."""
    levels = LEVELS['ImageNet, RGB']
    quantizer, x = ready(levels), normalised(torch.rand(1, 3, 12, 8) * 255, levels)

    def rows(image: torch.Tensor) -> torch.Tensor:
        return F.unfold(image, 4, stride=4)[0].T

    assert torch.equal(quantizer(rows(x)), rows(quantizer(x)))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_keep_theirs(dtype: torch.dtype) -> None:
    levels = LEVELS['ImageNet, RGB']
    x = normalised(all_pixels(levels), levels).to(dtype)
    y = ready(levels)(x)
    assert y.dtype == dtype
    if dtype != torch.bfloat16:  # whose 8 bits do not tell 256 pixels apart
        torch.testing.assert_close(y, x, rtol=1e-3 if dtype == torch.float16 else 1e-6, atol=1e-6)


def test_the_input_is_not_changed() -> None:
    levels = LEVELS['grey']
    x = torch.randn(1, 1, 5, 5)
    before = x.clone()
    ready(levels)(x)
    assert torch.equal(x, before)


def test_a_state_switches_a_fresh_quantizer_on() -> None:
    levels = LEVELS['ImageNet, RGB']
    fresh, x = build_quantizer(QuantSpec(8, grid='pixels'), 3), torch.randn(2, 3, 4, 4)
    assert not fresh.is_fitted and torch.equal(fresh(x), x)
    fresh.load_state_dict(copy.deepcopy(ready(levels).state_dict()))
    assert fresh.is_fitted and torch.equal(fresh(x), ready(levels)(x)) and not torch.equal(fresh(x), x)


def test_it_is_not_fitted_without_levels() -> None:
    quantizer = build_quantizer(QuantSpec(8, grid='pixels'), 3)
    with pytest.raises(RuntimeError, match='no mean and deviation yet: call set_levels before fit'):
        quantizer.fit(Histogram(1))
    with pytest.raises(ValueError, match='of 2 channels, the layer has 3'):
        quantizer.set_levels(PixelLevels((0.0, 1.0), (1.0, 1.0)))


def test_gradients_pass_inside_the_range_and_no_scale_is_trained() -> None:
    quantizer = ready(LEVELS['ImageNet, RGB'])
    assert not quantizer.learns_scale
    learner = Learner(quantizer, quantizer.learns_scale)
    x = torch.randn(1, 3, 6, 6).mul_(4).requires_grad_()
    learner(x).sum().backward()
    low, high = quantizer.bounds()
    assert torch.equal(x.grad, ((x >= low) & (x <= high)).float()) and 0 < x.grad.mean() < 1


def test_what_lies_on_the_levels() -> None:
    levels, grey = LEVELS['ImageNet, RGB'], LEVELS['grey']
    x = normalised(torch.randint(0, 256, (2, 3, 8, 8)), levels)
    assert levels.why_not(F.pad(x, (0, 5, 0, 3))) is None  # zeros are padding
    assert 'lie up to 0.' in levels.why_not(x + 0.1 / 57)
    assert 'beside integer pixels' in levels.why_not(x.flip(1))  # the channels in another order
    assert 'beside integer pixels' in levels.why_not(torch.full_like(x, float('nan')))
    outside = torch.tensor([-20, 7, 255]).expand(1, 3, 1, 3)
    assert 'has pixels from -20 to 255, not 0 to 255' in levels.why_not(normalised(outside, levels))
    assert 'zero throughout' in levels.why_not(torch.zeros_like(x))
    assert levels.why_not(x[:, :2]) == 'mean and deviation are of 3 channels, the layer has 2'
    same = PixelLevels(grey.mean * 3, grey.deviation * 3)
    assert grey.for_channels(3) == same and grey.why_not(normalised(torch.randint(0, 256, (1, 3, 4, 4)), same)) is None


def test_levels_of_tensors_and_impossible_ones() -> None:
    numbers = torch.tensor([1.5, 2.0, 3.0]).view(3, 1, 1)
    assert pixel_levels(numbers, [1, 1, 2]) == PixelLevels((1.5, 2.0, 3.0), (1.0, 1.0, 2.0))
    with pytest.raises(ValueError, match='one mean per deviation'):
        PixelLevels((1.0,), (1.0, 2.0))
    for mean, deviation in (((float('nan'),), (1.0,)), ((0.0,), (0.0,))):
        with pytest.raises(ValueError, match='mean must be finite and deviation positive'):
            PixelLevels(mean, deviation)
    with pytest.raises(ValueError, match="grid 'pixels' has 8 bits, got 4"):
        QuantSpec(4, grid='pixels')
