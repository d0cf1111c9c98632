"""The levels of a normalised image: integer pixels p of channel c stand as (p - mean_c) / deviation_c."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST_PIXEL = 255
TOLERANCE = 1e-3  # in pixels; float32 leaves about 3e-5


@dataclass(frozen=True)
class PixelLevels:
    """Mean and deviation, in pixels, of every channel as the model gets them; one of each may stand for all channels.

    Raises:
        ValueError: not one mean per deviation, a value that is not finite, or a deviation that is not positive.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ('mean', 'deviation'):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.mean or len(self.mean) != len(self.deviation):
            raise ValueError(f'one mean per deviation, got {self.mean} and {self.deviation}')
        if not all(math.isfinite(value) for value in (*self.mean, *self.deviation)) or min(self.deviation) <= 0:
            raise ValueError(
                f'mean must be finite and deviation positive, got mean {self.mean} and deviation {self.deviation}'
            )

    def for_channels(self, channels: int) -> 'PixelLevels':
        """Return the levels with an entry per channel.

        Raises:
            ValueError: they are those of another number of channels.
        """
        if len(self.mean) == channels:
            return self
        if len(self.mean) != 1:
            raise ValueError(f'mean and deviation are of {len(self.mean)} channels, the layer has {channels}')
        return PixelLevels(self.mean * channels, self.deviation * channels)

    def why_not(self, x: Tensor) -> str | None:
        """Return why a normalised image does not lie on the levels, or None.

        Zeros are left out: they may be padding, which is no pixel.

        Args:
            x: (..., channels, height, width).
        """
        try:
            levels = self.for_channels(x.shape[-3])
        except ValueError as error:
            return str(error)
        pixels = levels.pixels(x)[x != 0]
        if not pixels.numel():
            return 'the first calibration image is zero throughout'
        beside = float((pixels - pixels.round()).abs().max())
        low, high = float(pixels.min()), float(pixels.max())
        if not beside <= TOLERANCE:
            return f'values of the first calibration image lie up to {beside:.2g} beside integer pixels'
        if low < -TOLERANCE or high > LARGEST_PIXEL + TOLERANCE:
            return f'the first calibration image has pixels from {low:.4g} to {high:.4g}, not 0 to {LARGEST_PIXEL}'
        return None

    def pixels(self, x: Tensor) -> Tensor:
        """Return x deviation_c + mean_c in float64; the levels have an entry per channel of `x`."""
        mean, deviation = (
            torch.tensor(values, dtype=torch.float64, device=x.device).view(-1, 1, 1)
            for values in (self.mean, self.deviation)
        )
        return x.double() * deviation + mean


def pixel_levels(mean: Iterable[float] | Tensor, deviation: Iterable[float] | Tensor) -> PixelLevels:
    """Return levels from sequences or tensors of any shape."""
    return PixelLevels(*(tuple(torch.as_tensor(values).flatten().tolist()) for values in (mean, deviation)))
