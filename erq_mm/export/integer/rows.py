"""Sequences whose layers treat every row by itself, a few rows at a time, so that what lies between them stays cached.

The hidden rows of a Swin's feed-forward network are four times as wide as its tokens: 93 MB at 800x1216, which are
fetched from the system and written to main memory twice otherwise. An activation between two integer layers runs inside
the first one's kernel, whose output are the codes of the second.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...nn.layers import QuantLinear
from ...nn.recognition import has_own_behaviour, is_exactly
from ...nn.swap import replace_modules_
from .codes import InputGrid
from .modules import IntegerLinear

ROWS_PER_CHUNK = 2048
SEQUENTIAL = 'torch.nn.modules.container.Sequential'
LINEARS = (nn.Linear, QuantLinear, IntegerLinear)
SILENT = (nn.Dropout, nn.Identity)  # in eval mode
ROW_WISE = (*LINEARS, *SILENT, nn.GELU, nn.ReLU, nn.SiLU)  # all exactly of these types
TEST_ROWS = (1, 37)
MOVED_SHARE = 1e-2  # of the codes that a kernel may round to a neighbour, see `_is_same`


@dataclass(frozen=True)
class ActivatedLinear:
    """An integer layer and its activation, whose output are codes of the next layer."""

    linear: IntegerLinear
    activation: str
    grid: InputGrid

    def codes(self, x: Tensor) -> Tensor:
        """Map float rows, or codes of them, to codes of the next layer."""
        codes = x if x.dtype == torch.uint8 else self.linear.encode(x)
        return self.linear.activated_codes(codes, self.activation, self.grid)


class RowChunks(nn.Sequential):
    """An `nn.Sequential` of layers that treat every row by itself, in eval mode; keeps their names.

    Layers inside are not called one by one, so hooks that are added to them later are not called either.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__(OrderedDict(layers._modules))
        self.train(layers.training)
        self.steps = tuple(_fused([layer for layer in _leaves(layers) if type(layer) not in SILENT]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        rows = x.detach().reshape(-1, x.shape[-1])
        if self.training or not len(rows):
            return super().forward(x)
        parts = [self._run(part) for part in rows.split(ROWS_PER_CHUNK)]
        output = parts[0] if len(parts) == 1 else torch.cat(parts)
        return output.view(*x.shape[:-1], output.shape[-1])

    def _run(self, x: Tensor) -> Tensor:
        for step in self.steps:
            if isinstance(step, ActivatedLinear):
                x = step.codes(x)
            elif x.dtype == torch.uint8:
                x = step.product(x)
            else:
                x = step(x)
        return x


def run_in_chunks_(model: nn.Module) -> list[str]:
    """Replace the outermost sequences with two layers or more, one of them integer, and return their names."""
    found: dict[nn.Module, nn.Module] = {}
    names: list[str] = []
    for name, module in model.named_modules():
        if name and not any(name.startswith(f'{outer}.') for outer in names) and _is_chunkable(module):
            found[module] = RowChunks(module)
            names.append(name)
    replace_modules_(model, found)
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


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    return (leaf for leaf in module.modules() if not isinstance(leaf, nn.Sequential))


def _fused(layers: list[nn.Module]) -> Iterator[nn.Module | ActivatedLinear]:
    """Yield layers, with every activation between two integer layers put into the first one."""
    index = 0
    while index < len(layers):
        step = _activated(layers[index : index + 3])
        yield layers[index] if step is None else step
        index += 1 if step is None else 2


def _activated(layers: list[nn.Module]) -> ActivatedLinear | None:
    """Return the first two of three layers as one, if they are what that is for and it proves to be the same."""
    if len(layers) < 3 or not all(isinstance(layer, IntegerLinear) for layer in (layers[0], layers[2])):
        return None
    first, activation, second = layers
    is_exact_gelu = isinstance(activation, nn.GELU) and activation.approximate == 'none'
    name = 'gelu' if is_exact_gelu else 'relu' if isinstance(activation, nn.ReLU) else None
    if (
        name is None or second.grid.inverse is not None or second.grid.table is not None
    ):  # kernels give codes of one scale
        return None
    step = ActivatedLinear(first, name, second.grid)
    return step if _is_same(step, activation, second) else None


@torch.no_grad()
def _is_same(step: ActivatedLinear, activation: nn.Module, second: IntegerLinear) -> bool:
    """Whether the codes are those of the layers one by one, on seeded inputs.

    The kernel's activation and its product with the inverse scale round differently in the last bit, so a code may be
    the neighbour where the value lies in the middle of two.
    """
    generator, grid = torch.Generator().manual_seed(0), step.linear.grid
    try:
        for rows in TEST_ROWS:
            shape = rows, step.linear.in_features
            codes = torch.randint(0, grid.max_code + 1, shape, generator=generator, dtype=torch.uint8)
            expected = second.encode(activation(step.linear.product(codes)))
            difference = (step.codes(codes).int() - expected.int()).abs()
            if int(difference.max()) > 1 or float(difference.float().mean()) > MOVED_SHARE:
                return False
    except Exception:  # internal operators: whatever they raise means that they do not work here
        return False
    return True
