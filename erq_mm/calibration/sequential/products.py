"""Ranges of the products of attention, on what the model quantized so far gives them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...core.quantizers.log_normalised import LogNormalisedQuantizer
from ...core.reservoir import Reservoir
from ..state import SiteState
from .ranges import fit_tensor_

PAIRS = 256  # windows of one head that are kept of a product
STEPS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)  # octaves between codes of a softmax
WIDE_STEPS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5)  # at 3 bits and below
FINE_STEPS = (0.0625, 0.09375, 0.125, 0.1875, *STEPS)  # from 6 bits on, where codes are left for them


class ProductSample:
    """A random sample of the operands of a product, (pairs, n, k) and (pairs, k, m); one head of one window is a pair.

    Only operands of the shapes that come first are kept: global attention has others for every size of image.

    Args:
        seed: of the choice.
    """

    def __init__(self, seed: int) -> None:
        self._reservoir = Reservoir(PAIRS, seed)
        self._kept: tuple[Tensor, Tensor] | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Offer the operands of one call, with any leading dimensions."""
        operands = left.flatten(0, -3), right.flatten(0, -3)
        if self._kept is None:
            self._kept = tuple(operand.new_zeros(PAIRS, *operand.shape[1:]) for operand in operands)
        if any(kept.shape[1:] != operand.shape[1:] for kept, operand in zip(self._kept, operands, strict=True)):
            return
        chosen, slots = self._reservoir.choose(len(operands[0]), left.device)
        for kept, operand in zip(self._kept, operands, strict=True):
            kept[slots] = operand[chosen]

    def operands(self) -> tuple[Tensor, Tensor] | None:
        """Return what was kept; None if there was no call."""
        if self._kept is None or not self._reservoir.count:
            return None
        return tuple(kept[: self._reservoir.count] for kept in self._kept)


def fit_products(states: Sequence[SiteState], samples: Mapping[str, ProductSample], margin: float) -> None:
    """Fit the quantizers of products to their samples, and switch them on; without a sample they stay as they were.

    Args:
        margin: by which ranges are widened.
    """
    for state in states:
        operands = samples[state.name].operands()
        if operands is not None:
            _fit_product(state, *operands, margin)
        state.activate()


def _fit_product(state: SiteState, left: Tensor, right: Tensor, margin: float) -> None:
    operands = left, right
    for index, quantizer in enumerate(state.quantizers()):
        fit_tensor_(quantizer, operands[index], margin)
    quantizer = state.quantizers()[0]
    if isinstance(quantizer, LogNormalisedQuantizer):
        wanted, errors = left @ right, {}
        for octaves in _octaves(quantizer.spec.bits):
            quantizer.set_parameters(octaves)
            errors[octaves] = float((quantizer.fake_quantize(left) @ right - wanted).square().sum())
        quantizer.set_parameters(min(errors, key=errors.__getitem__))


def _octaves(bits: int) -> Sequence[float]:
    """Return what may lie between neighbouring codes of a softmax."""
    if bits <= 3:
        return WIDE_STEPS
    return STEPS if bits < 6 else FINE_STEPS
