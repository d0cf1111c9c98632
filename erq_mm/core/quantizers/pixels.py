"""The grid of the normalised image: its own 256 levels per channel, known before any image is seen."""

import torch
from torch import Tensor

from ..histogram import Histogram
from ..pixel_levels import LARGEST_PIXEL, PixelLevels
from ..spec import QuantSpec
from .base import Quantizer


class PixelQuantizer(Quantizer):
    """x_q = (clamp(round(x d_c + m_c), 0, 255) - m_c) / d_c with the mean m_c and deviation d_c of the normalisation.

    In other words a scale 1 / d_c and a zero point m_c, not an integer, per channel. Every integer pixel, normalised as
    (p - m_c) / d_c, is reproduced bit for bit, whatever images calibrate. Zeros that a model pads with stand for the
    pixel m_c, which is none: they become the nearest one, which is at most half a level, 1 / (2 d_c), beside zero.

    Inputs are images, (..., channels, height, width), or rows of their patches, (rows, channels * any), channel after
    channel as `torch.nn.functional.unfold` has them.

    Attributes:
        mean, deviation: buffers (channels,); zero until `set_levels`.
    """

    learns_scale = False
    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: QuantSpec, channels: int = 1) -> None:
        super().__init__(spec, channels)
        self.register_buffer('mean', torch.zeros(channels))
        self.register_buffer('deviation', torch.zeros(channels))

    def set_levels(self, levels: PixelLevels) -> None:
        """Take over mean and deviation; raises ValueError for those of another number of channels."""
        levels = levels.for_channels(self.channels)
        self.mean.copy_(torch.tensor(levels.mean))
        self.deviation.copy_(torch.tensor(levels.deviation))

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return the ends of every channel, (channels, 1, 1)."""
        mean, deviation = self.mean.view(-1, 1, 1), self.deviation.view(-1, 1, 1)
        return -mean / deviation, (LARGEST_PIXEL - mean) / deviation

    def observe(self, x: Tensor, histogram: Histogram) -> None:
        histogram.update(x.reshape(1, -1))

    def fit(self, histogram: Histogram) -> None:
        """Say that the grid is ready: it does not depend on the values.

        Raises:
            RuntimeError: `set_levels` was not called.
        """
        if not bool((self.deviation > 0).all()):
            raise RuntimeError('the pixel grid has no mean and deviation yet: call set_levels before fit')
        self.set_parameters(1.0)

    def fake_quantize(self, x: Tensor) -> Tensor:
        mean, deviation = self._per_channel(self.mean, x), self._per_channel(self.deviation, x)
        pixels = (x * deviation).add_(mean).round_().clamp_(0, LARGEST_PIXEL)  # at least float32, as the buffers are
        return pixels.sub_(mean).div_(deviation).to(x.dtype)  # the operations of the normalisation itself

    def _per_channel(self, values: Tensor, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return values.repeat_interleave(x.shape[1] // self.channels)
        return values.view(-1, 1, 1)
