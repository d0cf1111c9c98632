"""Random numbers of one computation: positions that the host needs, masks that the device does."""

import torch
from torch import Tensor


class RandomSource:
    """Draws that depend on the seed and on the kind of the device only; the user's generators are left alone.

    Masks are drawn where they are used: on a GPU from a generator of its own there. On a CPU both kinds come from one.

    Args:
        seed: of everything drawn.
        device: where the masks are used.
    """

    def __init__(self, seed: int, device: torch.device | str = 'cpu') -> None:
        self._host = torch.Generator().manual_seed(seed)
        self._device = self._host
        if torch.device(device).type != 'cpu':
            self._device = torch.Generator(device).manual_seed(seed)

    def position(self, count: int) -> int:
        """Return a number in 0..count - 1; a GPU is not waited for."""
        return int(torch.randint(count, (), generator=self._host))

    def positions(self, count: int, size: int) -> Tensor:
        """Return `size` numbers in 0..count - 1, with repetitions, on the device."""
        return torch.randint(count, (size,), generator=self._device, device=self._device.device)

    def mask(self, x: Tensor, probability: float) -> Tensor:
        """Return a mask like x, true with `probability`, in steps of 1/256; x lies on the device of the masks."""
        # eight random bytes at a time, the sign bit included
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)
        data = words.random_(-(2**63), None, generator=self._device).view(torch.uint8)[: x.numel()]
        return (data < round(probability * 256)).view(x.shape)
