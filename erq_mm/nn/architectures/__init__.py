"""What is known about the structure of networks: one file per family, its structure as data.

A new family is one more file with its `PARTS`, listed here, and its tests; nothing outside this folder learns of it.
"""

from torch import nn

from ..recognition import is_exactly
from . import mmdet_swin, mmpretrain_vit, timm_swin, timm_vit, torch_attention, transformers_dinov2
from .base import Input, Mixing, Part, Residual, Types
from .sequential import read_sequential

FAMILIES = (
    mmdet_swin.PARTS, mmpretrain_vit.PARTS, timm_swin.PARTS, timm_vit.PARTS, torch_attention.PARTS,
    transformers_dinov2.PARTS,
)  # fmt: skip
KNOWN = {part.type: part for parts in FAMILIES for part in parts}


def part_of(module: nn.Module) -> Part | None:
    """Return the description of a module whose structure is known exactly, else None.

    Statements whose own conditions do not hold on this module are left out of it.
    """
    part = _known_part(module) or read_sequential(module)
    if part is None:
        return None
    inputs = {path: given for path, given in part.inputs.items() if has_children(module, (path,), given.needs)}
    residuals = {path: given for path, given in part.residuals.items() if has_children(module, (path,), given.needs)}
    mixing = part.mixing if part.mixing is not None and _is_true(part.mixing, module) else None
    return Part(**vars(part) | {'inputs': inputs, 'residuals': residuals, 'mixing': mixing})


def _is_true(mixing: Mixing, module: nn.Module) -> bool:
    has_all = has_children(module, (mixing.takes,), mixing.needs)
    return has_all and not any(has_children(module, (path,), {}) for path in mixing.without)


def why_unknown(module: nn.Module) -> str:
    """Return why nothing is known about the inside of a module for which `part_of` gives None."""
    part = _described(module)
    if part is None:
        return f'the structure of {type(module).__name__} is not known'
    return _mismatch(module, part) or f'{type(module).__name__} cannot be replaced here'


def _known_part(module: nn.Module) -> Part | None:
    part = _described(module)
    return part if part is not None and _mismatch(module, part) is None else None


def _described(module: nn.Module) -> Part | None:
    """Return the description of the nearest class of a module that has one."""
    names = (f'{kind.__module__}.{kind.__qualname__}' for kind in type(module).__mro__)
    return next((KNOWN[name] for name in names if name in KNOWN), None)


def _mismatch(module: nn.Module, part: Part) -> str | None:
    """Return why a description of a module's class does not hold for this module, or None."""
    kind, name = type(module).__name__, part.type.rpartition('.')[2]
    if not is_exactly(module, part.type):
        return f'{kind} is no plain {name}: it has hooks, parametrizations or methods of its own'
    strange = [path for path in part.needs if not has_children(module, (), {path: part.needs[path]})]
    if strange:
        return f'{kind} with another {", ".join(strange)} than the known one'
    return part.refuses(module)


def has_children(module: nn.Module, paths: tuple[str, ...], types: Types) -> bool:
    """Whether a module has something at all of `paths`, and modules of exactly the `types` at theirs."""
    try:
        found = {path: module.get_submodule(path) for path in (*paths, *types)}
    except AttributeError:
        return False
    return all(is_exactly(found[path], name) for path, name in types.items())


__all__ = ['FAMILIES', 'Input', 'Part', 'Residual', 'has_children', 'part_of', 'why_unknown']
