"""Hidden units: outputs of a linear layer that nothing reads but the linear layers behind an elementwise activation.

Units can change places, be copied or be left out as long as the columns of those layers are changed with them. Which
layers have such outputs is seen kernel by kernel in a forward, not told from names: whatever else touches a value of
them, also the caller of the model, ends the matter.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from .tensors import nested_tensors, storage_key

ACTIVATIONS = ('relu', 'relu_', 'gelu', 'silu', 'silu_', 'hardtanh', 'hardtanh_', 'leaky_relu', 'leaky_relu_')
# they name the same memory; what they make of its shape is looked at where it is read
VIEWS = (
    'view',
    '_unsafe_view',
    'detach',
    'alias',
    'unsqueeze',
    'squeeze',
    't',
    'transpose',
    'permute',
    'slice',
    'select',
)
READERS = ('addmm', 'mm', 'linear')


@dataclass(frozen=True)
class Activation:
    """An elementwise kernel as it was called, to be called again; plain data, so that it can be sent to other ranks.

    Attributes:
        kernel, overload: of `torch.ops.aten`.
        arguments, keywords: those behind the tensor; keywords as pairs.
    """

    kernel: str
    overload: str
    arguments: tuple[Any, ...] = ()
    keywords: tuple[tuple[str, Any], ...] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the kernel makes of `x`, which stays as it is."""
        function = getattr(getattr(torch.ops.aten, self.kernel), self.overload)
        return function(x.clone(), *self.arguments, **dict(self.keywords))


@dataclass(frozen=True)
class HiddenUnits:
    """What is behind a layer whose outputs are hidden units.

    Attributes:
        consumers: names of the layers whose inputs they are, column by column.
        activation: what stands between, elementwise.
    """

    consumers: tuple[str, ...]
    activation: Activation


@dataclass
class _Outputs:
    """The outputs of one call of a layer, followed through one forward."""

    layer: str
    channels: int
    size: int
    storages: dict[int, StorageWeakRef] = field(default_factory=dict)
    activation: Activation | None = None
    consumers: list[str] = field(default_factory=list)
    is_spoiled: bool = False


class UnitTracker:
    """Follows the outputs of linear layers until something reads them."""

    def __init__(self) -> None:
        self.calls: list[_Outputs] = []
        self._held: dict[int, _Outputs] = {}

    def begin(self, layer: str, output: Any) -> None:
        """Follow what a linear layer has returned."""
        found = _Outputs(layer, 0, 0)
        self.calls.append(found)
        if isinstance(output, Tensor) and output.dim():
            found.channels, found.size = output.shape[-1], output.numel()
            self._hold(output, found)

    def see(self, func: Any, module: str, is_linear: bool, args: tuple, keywords: dict, result: Any) -> None:
        """Take note of a kernel that has run in a module's own code."""
        kernel = func.overloadpacket.__name__
        if kernel in VIEWS:
            return
        for place, tensor in enumerate(nested_tensors([args, keywords])):
            found = self._of(tensor)
            if found is None:
                continue
            if kernel in ACTIVATIONS and place == 0 and found.activation is None:
                found.activation = Activation(kernel, func._overloadname, args[1:], tuple(keywords.items()))
                self._hold(result, found)
            elif kernel in READERS and is_linear and found.activation is not None and self._is_whole(tensor, found):
                found.consumers.append(module)
            else:
                found.is_spoiled = True

    def leave_model(self, output: Any) -> None:
        """What the model returns has a reader that is not seen."""
        for tensor in nested_tensors(output):
            found = self._of(tensor)
            if found is not None:
                found.is_spoiled = True

    def found(self) -> dict[str, HiddenUnits]:
        """Return the layers that have hidden units, called once, with the layers behind them, read by nothing else."""
        called: dict[str, list[_Outputs]] = {}
        for call in self.calls:
            called.setdefault(call.layer, []).append(call)
        return {
            layer: HiddenUnits(tuple(calls[0].consumers), calls[0].activation)
            for layer, calls in called.items()
            if len(calls) == 1
            and not calls[0].is_spoiled
            and calls[0].consumers
            and all(len(called.get(name, ())) == 1 for name in calls[0].consumers)
        }

    def _hold(self, tensor: Tensor, found: _Outputs) -> None:
        storage = tensor.untyped_storage()
        found.storages[storage._cdata] = StorageWeakRef(storage)
        self._held[storage._cdata] = found

    def _of(self, tensor: Tensor) -> _Outputs | None:
        key = storage_key(tensor) if self._held else None
        found = self._held.get(key)
        if found is not None and found.storages[key].expired():  # the memory belongs to another tensor by now
            del self._held[key]
            return None
        return found

    @staticmethod
    def _is_whole(tensor: Tensor, found: _Outputs) -> bool:
        return tensor.shape[-1] == found.channels and tensor.numel() == found.size and tensor.is_contiguous()
