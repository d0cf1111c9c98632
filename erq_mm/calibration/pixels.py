"""See on the first calibration image which layers get integer pixels, normalised as the calibration task says."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.pixel_levels import PixelLevels
from ..nn.usage import not_observed

UNKNOWN = 'the calibration images come without the mean and deviation of their pixels'


@contextmanager
def pixels_watched(
    model: nn.Module, names: Sequence[str], levels: PixelLevels | None
) -> Iterator[dict[str, PixelLevels | str]]:
    """Look at the inputs of image layers while the block runs; always detaches.

    Args:
        names: of the layers in the float model.
        levels: as the task gives them.

    Yields:
        By name, the levels with an entry per channel, or why the input is not on them; layers that were not called are
        missing, unless there are no levels at all.
    """
    if levels is None:
        yield dict.fromkeys(names, UNKNOWN)
        return
    found: dict[str, PixelLevels | str] = {}
    handles = [model.get_submodule(name).register_forward_pre_hook(_look(name, levels, found)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _look(
    name: str, levels: PixelLevels, found: dict[str, PixelLevels | str]
) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    @torch.no_grad()
    def see(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or not isinstance(args[0], Tensor) or isinstance(found.get(name), str):
            return
        with not_observed():
            reason = levels.why_not(args[0])
            found[name] = reason or levels.for_channels(layer.weight.shape[1])

    return see
