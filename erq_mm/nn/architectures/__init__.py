"""What is known about the structure of networks: one file per family, its structure as data.

A new family is one more file with its `PARTS`, listed here, and its tests; nothing outside this folder learns of it.
"""

from torch import nn

from ..recognition import is_exactly
from . import mmdet_swin, torch_attention
from .base import Input, Part
from .sequential import read_sequential

FAMILIES = (mmdet_swin.PARTS, torch_attention.PARTS)
KNOWN = {part.type: part for parts in FAMILIES for part in parts}


def part_of(module: nn.Module) -> Part | None:
    """Return the description of a module whose structure is known exactly, else None.

    Inputs whose own conditions do not hold on this module are left out of it.
    """
    part = _known_part(module) or read_sequential(module)
    if part is None:
        return None
    inputs = {path: given for path, given in part.inputs.items() if has_children(module, (path,), given.needs)}
    return Part(**vars(part) | {'inputs': inputs})


def _known_part(module: nn.Module) -> Part | None:
    for kind in type(module).__mro__:
        part = KNOWN.get(f'{kind.__module__}.{kind.__qualname__}')
        if part is not None:
            fits = is_exactly(module, part.type) and has_children(module, (), part.needs)
            return part if fits and part.accepts(module) else None
    return None


def has_children(module: nn.Module, paths: tuple[str, ...], types: dict[str, str]) -> bool:
    """Whether a module has something at all of `paths`, and modules of exactly the `types` at theirs."""
    try:
        found = {path: module.get_submodule(path) for path in (*paths, *types)}
    except AttributeError:
        return False
    return all(is_exactly(found[path], name) for path, name in types.items())


__all__ = ['FAMILIES', 'Input', 'Part', 'has_children', 'part_of']
