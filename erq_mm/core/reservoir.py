"""A uniform random sample of bounded size from a stream whose length is not known (reservoir sampling)."""

import torch
from torch import Tensor


class Reservoir:
    """Keeps at most `capacity` rows of everything that arrives, each with the same probability.

    Two reservoirs with the same seed choose the same positions of two streams.

    Args:
        capacity: rows kept.
        seed: of the choice.

    Attributes:
        seen: rows that have arrived.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self.seen = capacity, 0
        self._generator = torch.Generator().manual_seed(seed)

    @property
    def count(self) -> int:
        """Rows kept."""
        return min(self.seen, self.capacity)

    def choose(self, arriving: int, device: torch.device | str = 'cpu') -> tuple[Tensor, Tensor]:
        """Return (rows, slots): which of the `arriving` rows to keep, and where; every slot at most once."""
        position = torch.arange(self.seen, self.seen + arriving, dtype=torch.float64)
        drawn = (torch.rand(arriving, generator=self._generator, dtype=torch.float64) * (position + 1)).long()
        slots = torch.where(position < self.capacity, position.long(), drawn).tolist()
        self.seen += arriving
        last_writer = {slot: row for row, slot in enumerate(slots) if slot < self.capacity}
        rows = torch.tensor(list(last_writer.values()), dtype=torch.long, device=device)
        return rows, torch.tensor(list(last_writer), dtype=torch.long, device=device)
