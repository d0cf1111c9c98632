"""What the writers know: modules of exactly these types, never of a resemblance."""

from torch import nn

from ...nn.recognition import is_exactly, type_name


class Unsupported(ValueError):
    """A module that no writer knows; the part it belongs to stays in torch."""


def expect(module: nn.Module, name: str | tuple[str, ...]) -> None:
    """Raise Unsupported unless `module` computes exactly what the class `name` (or one of several) computes."""
    if not is_exactly(module, name):
        known = name if isinstance(name, str) else ' or '.join(name)
        raise Unsupported(f'{type_name(module)} is not exactly {known}: its forward may differ')
