"""Signs that the calibration images are no sample of what the model sees: warnings in console and report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..core.histogram import Histogram
from ..core.quantizers import UniformQuantizer
from ..wording import first_of
from .state import Calibration, SiteState
from .task import FunctionTask

FEWEST_ROWS = 16
LARGEST_CLIPPED_SHARE = (
    0.25  # sound calibrations of the demo detectors clip up to 9 % of an input, degenerate ones 75 %
)
NAMED = 3


def warn_of_inputs(calibration: Calibration) -> None:
    """Add notes about layers whose input hardly came, or was one single value."""
    seen = [(s, s.histograms[0]) for s in calibration.layers() if not s.histograms[0].is_empty]
    few = [s.name for s, histogram in seen if _rows(s, histogram) < FEWEST_ROWS]
    single = [s.name for s, histogram in seen if bool((histogram.minimum == histogram.maximum).all())]
    images = None if isinstance(calibration.task, FunctionTask) else calibration.task.identity()
    for names, what in ((few, f'saw fewer than {FEWEST_ROWS} rows'), (single, 'saw one single value')):
        calibration.notes += degenerate_note(names, what, images)


def _rows(state: SiteState, histogram: Histogram) -> float:
    """Return how many rows the input of a layer had; pixels, of a convolution."""
    return histogram.num_seen / state.layer.weight.shape[1]


def degenerate_note(names: Sequence[str], what: str, images: Sequence[Any] | None) -> list[str]:
    """Return one line that names the first layers and the images; none without layers."""
    if not names:
        return []
    which = f' (images {list(images)})' if images is not None else ''
    return [f'degenerate calibration{which}: {len(names)} layers {what}: {first_of(names, NAMED)}']


@contextmanager
def clipping_watched(model: nn.Module) -> Iterator[Callable[[], dict[str, float]]]:
    """Measure, while the block runs, which share of its input every uniform quantizer clips.

    Yields:
        A function that returns the shares so far, by quantizer; half a step beyond the grid is no clipping.
    """
    clipped: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def observer(name: str) -> Callable[[UniformQuantizer, tuple[Tensor, ...]], None]:
        @torch.no_grad()
        def see(quantizer: UniformQuantizer, args: tuple[Tensor, ...]) -> None:
            low, high = quantizer.limits()
            x = quantizer.coordinates(args[0])
            outside = (x < low) | (x > high)
            clipped[name] = clipped.get(name, 0) + outside.sum()
            counts[name] = counts.get(name, 0) + args[0].numel()

        return see

    handles = [
        module.register_forward_pre_hook(observer(name))
        for name, module in model.named_modules()
        if isinstance(module, UniformQuantizer) and module.is_active
    ]
    try:
        yield lambda: {name: float(total) / max(counts[name], 1) for name, total in clipped.items()}
    finally:
        for handle in handles:
            handle.remove()


def warn_of_clipping(shares: Mapping[str, float], images: Sequence[Any]) -> list[str]:
    """Return a note if quantizers clip much of an input that did not calibrate them, else nothing.

    Args:
        shares: from `clipping_watched`. images: ids of the calibration images.
    """
    worst = sorted((name for name in shares if shares[name] > LARGEST_CLIPPED_SHARE), key=lambda n: -shares[n])
    layers = [name.rpartition('.')[0] for name in worst]
    return degenerate_note(layers, f'clip more than {LARGEST_CLIPPED_SHARE:.0%} of their input at test time', images)
