"""What the writers know: modules of exactly these types, never of a resemblance."""

from torch import nn

from ...nn.recognition import is_exactly, type_name


class Unsupported(ValueError):
    """A module that no writer knows; the part it belongs to stays in torch."""


def expect(module: nn.Module, name: str) -> None:
    """Raise Unsupported unless `module` computes exactly what the class `name` computes."""
    if not is_exactly(module, name):
        raise Unsupported(f'{type_name(module)} is not exactly {name}: its forward may differ')
