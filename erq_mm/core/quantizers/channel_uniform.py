"""Uniform grid of every channel, for inputs that no LayerNorm scales: the layer's weight takes the scales in."""

import torch
from torch import Tensor

from ..reparameterization import Reparameterization
from ..spec import QuantSpec
from .uniform import UniformQuantizer


class ChannelUniformQuantizer(UniformQuantizer):
    """y = x / ratio - shift, and the per-tensor grid of y: what comes out is y, on its grid or, switched off, as it is.

    The layer behind it has the weight and the bias that belong to y (`reparameterization.absorb_`), so that its own
    product is one of integers with a single scale.

    Attributes:
        ratio, shift: buffers (channels,); one and zero until `change_` is called.
        axis: negative, of the channels.
    """

    ratio: Tensor
    shift: Tensor
    axis = -1

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer('ratio', torch.ones(channels))
        self.register_buffer('shift', torch.zeros(channels))

    def change_(self, change: Reparameterization) -> None:
        """Take the change of variables and the grid behind it."""
        self.ratio.copy_(change.ratio)
        self.shift.copy_(change.shift)
        self.set_parameters(change.scale, change.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_fitted and not self.is_active:
            return self.coordinates(x)
        return super().forward(x)

    def coordinates(self, x: Tensor) -> Tensor:
        """Return y of `x`."""
        ratio, shift = (self._along(values) for values in (self.ratio, self.shift))
        return x / ratio.to(x.dtype) - shift.to(x.dtype)

    def to_steps(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return a and b of y / scale = x a + b, both (channels,)."""
        inverse, offset = 1 / (self.ratio.double() * self._scale), -self.shift.double() / self._scale
        return inverse.to(dtype), offset.to(dtype)

    def steps(self, x: Tensor) -> Tensor:
        inverse, offset = (self._along(values) for values in self.to_steps(x.dtype))
        return torch.addcmul(offset, x, inverse).round_().clamp_(-self._zero_point, self.max_code - self._zero_point)

    def _along(self, values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (-1 - self.axis))

    def bounds(self) -> tuple[Tensor, Tensor]:
        return tuple((end + self.shift) * self.ratio for end in super().bounds())
