"""Sequences whose layers treat every row by itself, a few rows at a time, so that what lies between them stays cached.

The hidden rows of a Swin's feed-forward network are four times as wide as its tokens: 93 MB at 800x1216, which are
fetched from the system and written to main memory twice otherwise. The results are those of all rows at once.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ...nn.layers import QuantLinear
from ...nn.recognition import has_own_behaviour, is_exactly
from .modules import IntegerLinear

ROWS_PER_CHUNK = 1024
SEQUENTIAL = 'torch.nn.modules.container.Sequential'
LINEARS = (nn.Linear, QuantLinear, IntegerLinear)
ROW_WISE = (*LINEARS, nn.GELU, nn.ReLU, nn.SiLU, nn.Dropout, nn.Identity)  # all exactly of these types


class RowChunks(nn.Sequential):
    """An `nn.Sequential` of layers that treat every row by itself; keeps their names."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = x.reshape(-1, x.shape[-1])
        parts = [super(RowChunks, self).forward(part) for part in rows.split(ROWS_PER_CHUNK)]
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        return output.view(*x.shape[:-1], output.shape[-1])


def run_in_chunks_(model: nn.Module) -> list[str]:
    """Replace the outermost sequences with two layers or more, one of them integer, and return their names."""
    found: dict[nn.Module, nn.Module] = {}
    names: list[str] = []
    for name, module in model.named_modules():
        if name and not any(name.startswith(f'{outer}.') for outer in names) and _is_chunkable(module):
            found[module] = RowChunks(OrderedDict(module._modules))
            found[module].train(module.training)
            names.append(name)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in found:
                parent._modules[name] = found[child]
    return names


def _is_chunkable(module: nn.Module) -> bool:
    if not is_exactly(module, SEQUENTIAL) or not _is_row_wise(module):
        return False
    linears = [layer for layer in module.modules() if isinstance(layer, LINEARS)]
    return len(linears) > 1 and any(isinstance(layer, IntegerLinear) for layer in linears)


def _is_row_wise(module: nn.Module) -> bool:
    if is_exactly(module, SEQUENTIAL):
        return all(_is_row_wise(child) for child in module._modules.values())
    return type(module) in ROW_WISE and not has_own_behaviour(module)
