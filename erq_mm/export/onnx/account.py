"""What became of every layer of an exported part."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

INTEGER, FLOAT = 'integer', 'float'


@dataclass
class LayerRecord:
    """One layer in the graph.

    Attributes:
        name: of the layer in the detector.
        runs_as: `integer` or `float`.
        reason: why it runs in float, or what became of its activations; empty for an ordinary integer layer.
        nodes: names of the graph's nodes that multiply by its weight, by which engines name their kernels.
        shape: of the weight.
        w_bits, a_bits: None if float.
    """

    name: str
    runs_as: str
    nodes: list[str] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    w_bits: int | None = None
    a_bits: int | None = None
    reason: str = ''

    @property
    def weights(self) -> int:
        """Number of values of the weight."""
        return math.prod(self.shape)

    @property
    def weight_bytes(self) -> int:
        """Size of the weight in the graph: a byte or four per value."""
        return self.weights * (1 if self.runs_as == INTEGER else 4)


@dataclass
class Account:
    """Layers of a part, in order, and notes for the reader (attention products that became float)."""

    layers: list[LayerRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def integer_layers(self) -> list[LayerRecord]:
        return [layer for layer in self.layers if layer.runs_as == INTEGER]

    @property
    def float_layers(self) -> list[LayerRecord]:
        return [layer for layer in self.layers if layer.runs_as == FLOAT]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'Account':
        """Undo `to_dict`."""
        layers = [LayerRecord(**layer | {'shape': tuple(layer['shape'])}) for layer in values['layers']]
        return cls(layers, list(values['notes']))
