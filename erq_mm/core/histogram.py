"""Running histograms: the distribution of any number of values in memory that does not grow with them."""

from collections.abc import Sequence

import torch
from torch import Tensor

VALUES_PER_PART = 2**20  # that are counted at once, so that their bins stay in a CPU's cache


class Histogram:
    """One histogram per channel over ranges that double as wider values arrive.

    Bins merge in pairs when a range doubles, so counts stay exact. The occupied part of a range is at least half of it
    (up to the first batch), hence a quantile read from the histogram is off by less than one bin,
    2 (max - min) / num_bins, and a squared error computed on bin centres replaces every value by one at most half a bin
    away. Minimum and maximum are exact.

    Args:
        num_channels: number of independent histograms.
        num_bins: bins per channel, even.
        every: of the values that arrive together every n-th is counted; minimum and maximum are those of all.

    Attributes:
        num_seen: values that have arrived, counted or not, of all channels together.
    """

    def __init__(
        self, num_channels: int = 1, num_bins: int = 4096, device: torch.device | str = 'cpu', every: int = 1
    ) -> None:
        if num_bins % 2:
            raise ValueError(f'num_bins must be even, got {num_bins}')
        self.num_channels, self.num_bins, self.every = num_channels, num_bins, every
        self.num_seen = 0
        self.counts = torch.zeros(num_channels, num_bins, dtype=torch.float64, device=device)
        self.minimum = torch.full((num_channels,), torch.inf, device=device)
        self.maximum = torch.full((num_channels,), -torch.inf, device=device)
        self.low = torch.zeros(num_channels, dtype=torch.float64, device=device)
        self.width = torch.zeros(num_channels, dtype=torch.float64, device=device)

    @property
    def is_empty(self) -> bool:
        """Whether no value has arrived yet."""
        return self.num_seen == 0

    def update(self, values: Tensor) -> None:
        """Add values, shape (num_channels, n); n may be zero.

        Raises:
            FloatingPointError: a value is NaN or infinite.
        """
        if values.numel() == 0:
            return
        # torch.aminmax takes 5 to 15 times as long on a CPU
        minimum, maximum = values.amin(1).float(), values.amax(1).float()
        if not bool((torch.isfinite(minimum) & torch.isfinite(maximum)).all()):
            kind = 'NaN' if bool(torch.isnan(minimum).any()) else 'infinity'
            raise FloatingPointError(f'{kind} among the values')
        self.minimum = torch.minimum(self.minimum, minimum)
        self.maximum = torch.maximum(self.maximum, maximum)
        self._cover(self.minimum.double(), self.maximum.double())
        self.num_seen += values.numel()
        self._count(values if self.every == 1 else values[:, :: self.every].contiguous())

    def centres(self) -> Tensor:
        """Return the bin centres, clipped to the values seen, float64 (num_channels, num_bins)."""
        steps = torch.arange(self.num_bins, dtype=torch.float64, device=self.low.device) + 0.5
        centres = self.low[:, None] + self.width[:, None] * steps
        return centres.clamp(self.minimum.double()[:, None], self.maximum.double()[:, None])

    def quantile(self, fraction: float) -> Tensor:
        """Return the value below which `fraction` of the values lie, float64 (num_channels,); exact at 0 and 1."""
        return self.quantiles([fraction])[0]

    def quantiles(self, fractions: Sequence[float]) -> list[Tensor]:
        """Return `quantile` of every fraction; the counts are summed once."""
        is_inside = any(0 < fraction < 1 for fraction in fractions)
        cumulative = self._cumulative() if is_inside else None
        return [self._quantile(fraction, cumulative) for fraction in fractions]

    def _cumulative(self) -> Tensor:
        # CUDA sums only integers deterministically
        counts = self.counts if self.counts.device.type == 'cpu' else self.counts.long()
        return counts.cumsum(1).double()

    def _quantile(self, fraction: float, cumulative: Tensor | None) -> Tensor:
        if fraction <= 0:
            return self.minimum.double()
        if fraction >= 1:
            return self.maximum.double()
        target = (fraction * cumulative[:, -1:]).contiguous()
        index = torch.searchsorted(cumulative, target).clamp_(max=self.num_bins - 1)
        inside = self.counts.gather(1, index).clamp(min=1)
        before = cumulative.gather(1, index) - self.counts.gather(1, index)
        position = index + (target - before) / inside
        value = self.low + self.width * position.squeeze(1)
        return value.clamp(self.minimum.double(), self.maximum.double())

    def _cover(self, minimum: Tensor, maximum: Tensor) -> None:
        """Make every range contain [minimum, maximum], by doubling those that do not."""
        if not bool(self.width.any()):
            spread = maximum - minimum
            magnitude = torch.maximum(minimum.abs(), maximum.abs())
            self.width = torch.maximum(spread, magnitude * 1e-6).clamp(min=1e-12) / self.num_bins * (1 + 1e-6)
            self.low = minimum.clone()
        while bool((need := self._lacks(minimum, maximum)).any()):
            below = need & (minimum < self.low)
            merged = self.counts.view(self.num_channels, -1, 2).sum(2)
            empty = torch.zeros_like(merged)
            grown = torch.where(below[:, None], torch.cat([empty, merged], 1), torch.cat([merged, empty], 1))
            self.counts = torch.where(need[:, None], grown, self.counts)
            self.low = torch.where(below, self.low - self.num_bins * self.width, self.low)
            self.width = torch.where(need, self.width * 2, self.width)

    def _lacks(self, minimum: Tensor, maximum: Tensor) -> Tensor:
        return (minimum < self.low) | (maximum > self.low + self.num_bins * self.width)

    def _count(self, values: Tensor) -> None:
        low, width = (v[:, None].to(values.dtype) for v in (self.low, self.width))
        offsets = torch.arange(self.num_channels, dtype=torch.int32, device=values.device)[:, None] * self.num_bins
        for part in values.split(max(1, VALUES_PER_PART // self.num_channels), dim=1):
            index = (part - low).div_(width).int().clamp_(0, self.num_bins - 1)
            index = index.view(-1) if self.num_channels == 1 else index.add_(offsets).reshape(-1)
            self.counts += torch.bincount(index, minlength=self.counts.numel()).view_as(self.counts)
