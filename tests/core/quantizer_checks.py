"""Checks that hold for every grid, and a numerical derivative."""

from collections.abc import Callable

import torch

from erq_mm.core.histogram import Histogram
from erq_mm.core.quantizers import Quantizer, build_quantizer
from erq_mm.core.quantizers.learning import Learner
from erq_mm.core.spec import QuantSpec


def fitted(x: torch.Tensor, channels: int = 1, **spec: object) -> Quantizer:
    """Return a quantizer fitted to `x`, whose last dimension is `channels` unless that is 1."""
    quantizer, histogram = build_quantizer(QuantSpec(**spec), channels), Histogram(channels)
    quantizer.observe(x, histogram)
    quantizer.fit(histogram)
    return quantizer


def check_rounding(quantizer: Quantizer, sorted_values: torch.Tensor) -> torch.Tensor:
    """Idempotent, monotone along the first dimension, within the bounds; returns the rounded values."""
    once = quantizer.fake_quantize(sorted_values)
    torch.testing.assert_close(quantizer.fake_quantize(once), once, rtol=1e-5, atol=1e-7)
    assert (once.diff(dim=0) >= -1e-7).all()
    low, high = quantizer.bounds()
    assert (once >= torch.as_tensor(low) - 1e-6).all() and (once <= torch.as_tensor(high) * (1 + 1e-5) + 1e-6).all()
    return once


def check_learner(quantizer: Quantizer, x: torch.Tensor) -> None:
    """The gradients of `Learner` are those of s Q_1 + (x - x0) with the rounding residual Q_1 frozen, by differences.

    Inside the bounds the surrogate is s ((x + offset) / s + residual) - offset; outside it is the end of the grid,
    which moves with the scale.
    """
    x = x.clone().requires_grad_()
    weight = torch.randn_like(x)
    learner = Learner(quantizer, learn_scale=True)
    (learner(x) * weight).sum().backward()
    start, scale, offset = x.detach().double(), float(quantizer.scale), quantizer.offset
    frozen = (quantizer.fake_quantize(x.detach()).double() + offset) / scale
    low, high = quantizer.bounds()
    inside = (start >= low) & (start <= high)
    residual = frozen - (start + offset) / scale

    def surrogate(values: torch.Tensor, s: float) -> torch.Tensor:
        moved = torch.where(inside, (values + offset) / s + residual, frozen)
        return ((s * moved - offset) * weight).sum()

    to_scale = _difference(lambda s: surrogate(start, s), scale, 1e-4 * scale)
    torch.testing.assert_close(learner.scale.grad.double(), to_scale, rtol=2e-3, atol=2e-3)
    direction = torch.randn_like(start)
    along = _difference(lambda t: surrogate(start + t * direction, scale), 0.0, 1e-4)
    torch.testing.assert_close((x.grad.double() * direction).sum(), along, rtol=1e-3, atol=1e-3)


def _difference(function: Callable[[float], torch.Tensor], at: float, step: float) -> torch.Tensor:
    return (function(at + step) - function(at - step)) / (2 * step)
