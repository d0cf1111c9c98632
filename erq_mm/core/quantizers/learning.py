"""What a quantizer does while a reconstruction trains through it: straight-through gradients, learned scale, dropping.

Every grid of this package is scale-equivariant, Q_s(x) = s Q_1(x / s), so one rule gives the gradient to the scale of
all of them (for the affine grid it is that of LSQ). Of the twin grid for GELU that is true above zero only.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..random_source import RandomSource
from .base import Quantizer


class StraightThrough(torch.autograd.Function):
    """Passes x_q on, with the gradients of a rounding whose residual is constant.

    Inside the range [low, high] of the grid, d x_q / d x = 1 and d x_q / d s = (x_q - x) / s; outside, 0 and x_q / s.
    With an offset, both x and x_q are measured from -offset, where the scale has its fixed point.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, x_q: Tensor, low: float, high: float, offset: float) -> Tensor:
        ctx.save_for_backward(x, x_q, scale)
        ctx.low, ctx.high, ctx.offset = low, high, offset
        return x_q

    @staticmethod
    def backward(ctx, gradient: Tensor):
        x, x_q, scale = ctx.saved_tensors
        inside = (x >= ctx.low) & (x <= ctx.high)
        to_x = gradient * inside
        to_scale = None
        if ctx.needs_input_grad[1]:
            moved = torch.where(inside, x_q - x, x_q + ctx.offset)
            to_scale = (gradient * moved).sum() / scale
        return to_x, to_scale, None, None, None, None


class Learner:
    """Stands in for `fake_quantize` of one quantizer while its unit is reconstructed.

    Args:
        quantizer: fitted and active.
        learn_scale: whether the scale is trained.
        drop: probability with which an element stays unquantized (QDrop).
        source: of the dropping.
    """

    def __init__(
        self, quantizer: Quantizer, learn_scale: bool, drop: float = 0.0, source: RandomSource | None = None
    ) -> None:
        self.quantizer, self.drop, self.source = quantizer, drop, source
        self.scale = quantizer.scale.detach().clone().requires_grad_(learn_scale)
        self.smallest = quantizer.numbers['scale'] * 1e-3

    def __call__(self, x: Tensor) -> Tensor:
        quantizer = self.quantizer
        with torch.no_grad():
            x_q = quantizer.fake_quantize(x.detach())
            bounds = [quantizer.coordinates(end) for end in quantizer.bounds()]
        x = quantizer.coordinates(x)
        y = StraightThrough.apply(x, self.scale, x_q, *bounds, quantizer.offset)
        if not quantizer.scales_negative_values:
            fixed = StraightThrough.apply(x, self.scale.detach(), x_q, *bounds, quantizer.offset)
            y = torch.where(x < 0, fixed, y)
        if self.drop:
            return torch.where(self.source.mask(x, self.drop), x, y)
        return y


@torch.no_grad()
def synchronize(learners: Sequence[Learner]) -> None:
    """Put the trained scales into their quantizers, with one transfer; call after every optimizer step."""
    trained = [learner for learner in learners if learner.scale.requires_grad]
    if not trained:
        return
    for learner in trained:
        learner.scale.clamp_(min=learner.smallest)
    for learner, scale in zip(trained, torch.stack([learner.scale for learner in trained]).tolist(), strict=True):
        learner.quantizer.set_scale(scale)
