"""Weights while they are reconstructed: rounding between the two neighbours (AdaRound, ICML 2020), or straight through.

Both are parametrizations for `torch.nn.utils.parametrize`: they map a layer's float weight to what its forward uses.
"""

import torch
from torch import Tensor, nn

from .quantizers.learning import StraightThrough
from .weight_grid import WeightGrid

STRETCH_HIGH, STRETCH_LOW = 1.1, -0.1  # zeta and gamma: h reaches 0 and 1 at finite V


class SoftRounding(nn.Module):
    """W_q = s (clip(floor(W / s) + h(V) + z) - z), h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1).

    h starts as the fraction that rounding would drop, so that W_q starts as W wherever W is not clipped.

    Args:
        weight: the float weight, of any shape (out, ...).
        grid: of the flattened weight (out, in).

    Attributes:
        logits: V, (out, in), to be trained.
        hard: use h >= 1/2 as 0 or 1.
    """

    def __init__(self, weight: Tensor, grid: WeightGrid) -> None:
        super().__init__()
        grid.refuse_table('AdaRound')
        self.grid, self.hard = grid, False
        scaled = weight.detach().flatten(1) / grid.scale_of()
        floor = scaled.floor()
        fraction = (scaled - floor).clamp_(0.01, 0.99)
        self.lower_code = floor + grid.zero_point_of()
        self.logits = nn.Parameter(-torch.log((STRETCH_HIGH - STRETCH_LOW) / (fraction - STRETCH_LOW) - 1))

    def codes(self) -> Tensor:
        """Return the hard codes, whole numbers 0..max_code, (out, in)."""
        up = _stretched(self.logits.detach().sigmoid()) >= 0.5
        return (self.lower_code + up).clamp_(0, self.grid.max_code)

    def forward(self, weight: Tensor) -> Tensor:
        if self.hard:
            return self.grid.decode(self.codes()).view_as(weight)
        codes = _SoftCodes.apply(self.logits, self.lower_code, self.grid.max_code)
        return self.grid.decode(codes).view_as(weight)

    def regularization(self, beta: float) -> Tensor:
        """Return sum(1 - |2 h - 1|^beta): zero when every h is 0 or 1."""
        return _Regularization.apply(self.logits, beta)

    def trained(self) -> list[Tensor]:
        """Return what the optimizer changes."""
        return [self.logits]


def _stretched(probability: Tensor) -> Tensor:
    return (probability * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW).clamp_(0, 1)


def _slope(probability: Tensor) -> Tensor:
    """d h / d V, zero where h is clipped."""
    stretched = probability * (STRETCH_HIGH - STRETCH_LOW) + STRETCH_LOW
    slope = probability * (1 - probability) * (STRETCH_HIGH - STRETCH_LOW)
    return slope.mul_((stretched > 0) & (stretched < 1))


class _SoftCodes(torch.autograd.Function):
    """clip(lower + h(V), 0, max_code); the derivative is kept as one tensor, where autograd would keep five."""

    @staticmethod
    def forward(ctx, logits: Tensor, lower: Tensor, max_code: int) -> Tensor:
        probability = logits.sigmoid()
        codes = lower + _stretched(probability)
        ctx.save_for_backward(_slope(probability).mul_((codes >= 0) & (codes <= max_code)))
        return codes.clamp_(0, max_code)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.saved_tensors[0], None, None


class _Regularization(torch.autograd.Function):
    """sum(1 - |2 h(V) - 1|^beta), with one power for value and derivative."""

    @staticmethod
    def forward(ctx, logits: Tensor, beta: float) -> Tensor:
        probability = logits.sigmoid()
        signed = _stretched(probability).mul_(2).sub_(1)
        power = signed.abs().pow_(beta - 1)
        ctx.save_for_backward(_slope(probability).mul_(signed.sign()).mul_(power).mul_(-2 * beta))
        return signed.numel() - power.mul_(signed.abs()).sum()

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient * ctx.saved_tensors[0], None


class StraightThroughRounding(nn.Module):
    """W_q = Q(W) with gradients as if rounding were the identity within the range; W itself is trained.

    Args, `hard` and methods as `SoftRounding`; there is nothing to regularize.
    """

    def __init__(self, weight: Tensor, grid: WeightGrid) -> None:
        super().__init__()
        self.grid, self.hard = grid, False
        self.values = nn.Parameter(weight.detach().flatten(1).clone())

    def codes(self) -> Tensor:
        return self.grid.encode(self.values.detach())

    def forward(self, weight: Tensor) -> Tensor:
        grid = self.grid
        low = grid.decode(torch.zeros_like(self.values))
        high = grid.decode(torch.full_like(self.values, float(grid.max_code)))
        x_q = grid.decode(self.codes())
        return StraightThrough.apply(self.values, grid.scale, x_q, low, high, 0.0).view_as(weight)

    def regularization(self, beta: float) -> Tensor:
        return self.values.new_zeros(())

    def trained(self) -> list[Tensor]:
        return [self.values]


ROUNDINGS = {'adaround': SoftRounding, 'straight_through': StraightThroughRounding}


def regularization_beta(progress: float, start: float, stop: float, warmup: float) -> float | None:
    """Return beta after a share `progress` of the iterations: none during warm-up, then linear from start to stop."""
    if progress < warmup:
        return None
    return start + (stop - start) * (progress - warmup) / max(1 - warmup, 1e-12)
