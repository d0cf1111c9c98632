"""More regions of interest than an image has: two of its regions, cut and put together (CutMix, Yun et al., ICCV 2019).

A few images show a few dozen objects, and the last layers of a box head are fitted to these alone. What the float head
makes of parts of two regions it can be asked, so that no labels have to be mixed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 64  # regions that are put together at a time: all those of an image weigh 60 MB, and steps on the way as much


@dataclass(frozen=True)
class RegionMix:
    """Which regions are put together, and how.

    Attributes:
        pairs: two regions each, int64 (2, mixed).
        flipped: whether either is taken from right to left, bool (2, mixed).
        is_first: the places that are the first one's, bool (mixed, height, width).
    """

    pairs: Tensor
    flipped: Tensor
    is_first: Tensor

    def mixed(self, regions: Tensor) -> Tensor:
        """Return the new regions alone, (mixed, channels, height, width)."""
        found = regions.new_empty(len(self.is_first), *regions.shape[1:])
        self._put_together(regions, found)
        return found

    def appended(self, x: Tensor) -> Tensor:
        """Return regions, flattened behind their channels or not, (n, ...), and the new ones behind them."""
        regions = x.reshape(len(x), -1, *self.is_first.shape[1:])
        found = x.new_empty(len(x) + len(self.is_first), *x.shape[1:])
        found[: len(x)] = x
        self._put_together(regions, found[len(x) :].view(-1, *regions.shape[1:]))
        return found

    def _put_together(self, regions: Tensor, found: Tensor) -> None:
        """Write the new regions to `found`, (mixed, channels, height, width)."""
        plan = (self.pairs.split(AT_ONCE, 1), self.flipped.split(AT_ONCE, 1), self.is_first.split(AT_ONCE))
        for place, *parts in zip(found.split(AT_ONCE), *plan, strict=True):
            pairs, flipped, is_first = (part.to(regions.device) for part in parts)
            first, second = (
                torch.where(is_flipped[:, None, None, None], side.flip(-1), side)
                for side, is_flipped in zip(regions[pairs], flipped, strict=True)
            )
            torch.where(is_first[:, None], first, second, out=place)


def draw_mix(chances: Tensor, size: tuple[int, int], count: int, seed: int) -> RegionMix:
    """Draw pairs of regions, sides and cuts.

    Args:
        chances: how likely every region is to be drawn, (n,), not negative, one of them positive.
        size: height and width of regions.
        count: of the new ones, at least one.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    chances = chances.double().cpu()
    pairs = torch.multinomial(chances.expand(2, -1), count, replacement=True, generator=generator)
    flipped = torch.rand(2, count, generator=generator) < 0.5
    return RegionMix(pairs, flipped, _cuts(size, count, generator))


def _cuts(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Return regions cut along a row or a column, at any place: which side is the first one's, bool (count, *size)."""
    height, width = size
    by_row = torch.rand(count, generator=generator) < 0.5
    places = torch.rand(count, generator=generator)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    at_row, at_column = (1 + (places * (length - 1)).floor() for length in size)
    is_above = (rows < at_row[:, None, None]).expand(count, height, width)
    is_left = (columns < at_column[:, None, None]).expand(count, height, width)
    is_first = torch.where(by_row[:, None, None], is_above, is_left)
    return is_first ^ (torch.rand(count, generator=generator) < 0.5)[:, None, None]
