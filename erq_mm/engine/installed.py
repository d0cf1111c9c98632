"""A check that a model still is what quantization made of it: hooks that exchange weights change it in silence."""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ..core.quantizers import Quantizer
from ..export.integer import IntegerLayer
from ..nn.layers import QuantLayer
from ..nn.windows import PaddedWindows
from ..wording import first_of
from .two_stage import evaluated_part

STEPS_OFF_GRID = 1e-3  # rounding errors of scale * (code - zero point) are far below it
NAMED = 4


class InstalledModel:
    """What the parameters and the quantizers of a model were when it had been quantized, as a checksum per tensor.

    Args:
        model: just quantized.
    """

    def __init__(self, model: nn.Module) -> None:
        self._sums = _checksums(model)

    def check(self, model: nn.Module) -> None:
        """Raise RuntimeError, naming tensors, unless they all are as installed and the weights lie on their grids.

        Of a semi-supervised detector, the half that evaluation runs now must also be the one that was quantized.
        """
        name, evaluated = evaluated_part(model)
        if name and not any(isinstance(module, (QuantLayer, IntegerLayer)) for module in evaluated.modules()):
            raise RuntimeError(
                f'evaluation runs {name} now, which is float: another part was quantized, the one it ran at the first '
                'batch. Evaluate one of them per run (semi_test_cfg.predict_on, with a plain ValLoop or TestLoop)'
            )
        found = _checksums(model)
        off_grid = {f'{name}.weight': steps for name, steps in _steps_off_grid(model) if not steps < STEPS_OFF_GRID}
        changed = [name for name in {**self._sums, **found} if found.get(name) != self._sums.get(name)]
        names = list(off_grid) + [name for name in changed if name not in off_grid]
        if not names:
            return
        far = f', weights up to {max(off_grid.values()):.2f} steps off their grid' if off_grid else ''
        raise RuntimeError(
            f'{len(names)} tensors are not what quantization made of them{far}: {first_of(names, NAMED)}. '
            'A hook, or something else, changed the weights after quantization, so the metrics are of another model. '
            'Weights may be exchanged until the first batch of the first evaluation, for example in before_test_epoch, '
            'and not exchanged back; or save the weights to be evaluated as a checkpoint and remove the hook'
        )


def _checksums(model: nn.Module) -> dict[str, int]:
    return {name: zlib.crc32(_bytes(tensor)) for name, tensor in _installed(model)}


def _bytes(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _installed(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield all parameters, and the buffers of quantized modules; others may change at test time."""
    yield from model.named_parameters()
    for name, module in model.named_modules():
        if isinstance(module, (QuantLayer, IntegerLayer, Quantizer, PaddedWindows)):
            yield from module.named_buffers(name, recurse=False)


def _steps_off_grid(model: nn.Module) -> Iterator[tuple[str, float]]:
    """Yield how far the farthest weight of every quantized layer lies off its grid, in steps of the grid."""
    for name, layer in model.named_modules():
        if isinstance(layer, QuantLayer) and layer.has_quantized_weight:
            grid, weight = layer.weight_grid, layer.weight_matrix()
            yield name, float(((weight - grid.decode(grid.encode(weight))).abs() / grid.scale_of()).max())
