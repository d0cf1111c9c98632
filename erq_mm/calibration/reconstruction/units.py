"""What is reconstructed together, in the order of the modules."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...core.quantizers import Quantizer
from ..state import SiteState


@dataclass(frozen=True)
class Unit:
    """A block with its layers and products, or a single layer.

    Attributes:
        name: of the module.
        states: its sites; at least one layer, or products only.
        is_block: whether the module is run as a whole (its inputs are kept per image), or is one product of a weight
            (rows are kept).
    """

    name: str
    states: tuple[SiteState, ...]
    is_block: bool

    def layers(self) -> list[SiteState]:
        """The sites that have weights."""
        return [state for state in self.states if state.has_weight]

    def device(self) -> torch.device:
        """Where the unit is computed."""
        return next(self.states[0].module.buffers()).device

    def quantizers(self) -> list[Quantizer]:
        """The fitted activation quantizers."""
        return [q for state in self.states for q in state.quantizers() if q.is_fitted]


@dataclass(frozen=True)
class Segment:
    """Units whose inputs are collected in one pass: a block, or the layers of one part of the model.

    Attributes:
        states: all sites, also those of products that no unit has.
    """

    name: str
    units: tuple[Unit, ...]
    states: tuple[SiteState, ...]

    @property
    def is_block(self) -> bool:
        """Whether the segment is one block."""
        return len(self.units) == 1 and self.units[0].is_block


def segments(sites: Sequence[SiteState], unit: str) -> list[Segment]:
    """Group the sites: `unit` is 'block' or 'layer'.

    Layers outside the blocks form one segment per part of the model (neck, RPN, heads), layers of a block under
    unit='layer' one per block.
    """
    groups: dict[str, list[SiteState]] = {}
    for state in sites:
        block = state.site.block
        groups.setdefault(block if block is not None else state.name.partition('.')[0] + ' layers', []).append(state)
    found = []
    for name, states in groups.items():
        if unit == 'block' and states[0].site.block is not None:
            units = (Unit(name, tuple(states), True),)
        else:
            units = tuple(Unit(s.name, (s,), False) for s in states if s.has_weight)
        found.append(Segment(name, units, tuple(states)))
    return found
