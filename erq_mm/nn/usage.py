"""What one forward of a model really uses: which parameters, by whom, and where activations are multiplied.

Seen from below, kernel by kernel, so that it does not matter how the model's code is written.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from .hidden_units import HiddenUnits, UnitTracker
from .tensors import nested_tensors, storage_key

PRODUCTS = {
    'mm', 'bmm', 'addmm', 'baddbmm', 'matmul', 'linear', 'convolution', '_scaled_dot_product_flash_attention_for_cpu',
    '_scaled_dot_product_flash_attention', '_scaled_dot_product_efficient_attention',
    '_scaled_dot_product_attention_math', '_scaled_dot_product_cudnn_attention',
    '_scaled_dot_product_fused_attention_overrideable',
}  # fmt: skip
# kernels that take a tensor for its dtype and device, not for its values
FACTORIES = ('new_', 'empty_like', 'zeros_like', 'ones_like', 'full_like', 'rand_like', 'randn_like', 'sym_', 'is_')

_is_paused = ContextVar('_is_paused', default=False)


@dataclass
class Usage:
    """What a forward has used; modules and parameters by their first names in the model.

    Attributes:
        calls: module -> number of its calls.
        users: parameter -> modules whose own code used its values, with the kernels that did.
        consumers: LayerNorm -> modules whose own code took its output.
        products: module -> products of two activations in its own code, by kernel.
        hidden_units: linear layer -> what is behind its outputs, if they are hidden units.
    """

    calls: Counter[str] = field(default_factory=Counter)
    users: dict[str, dict[str, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    consumers: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    products: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    hidden_units: dict[str, HiddenUnits] = field(default_factory=dict)

    def foreign_users(self, layer: str) -> list[str]:
        """Return the modules that used a parameter of `layer` outside of a call of it or of a module inside it."""
        found = {
            user
            for parameter, users in self.users.items()
            if parameter.rpartition('.')[0] == layer
            for user in users
            if user != layer and not user.startswith(f'{layer}.')
        }
        return sorted(found)


@contextmanager
def observe_usage(model: nn.Module) -> Iterator[Usage]:
    """Record what the forwards of `model` use while the block runs; always detaches.

    Parameters that are only looked at for their dtype, device or shape do not count.
    """
    usage = Usage()
    names = {module: name for name, module in model.named_modules()}
    observer = _Observer(usage, model)
    handles = []
    for module, name in names.items():
        enter, leave = observer.hooks(name, module)
        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        with observer:
            yield usage
    finally:
        for handle in handles:
            handle.remove()
        usage.hidden_units = observer.units.found()


@contextmanager
def not_observed() -> Iterator[None]:
    """What happens while the block runs is no use of the model: hooks that look at tensors say so with it."""
    token = _is_paused.set(True)
    try:
        yield
    finally:
        _is_paused.reset(token)


class _Observer(TorchDispatchMode):
    def __init__(self, usage: Usage, model: nn.Module) -> None:
        super().__init__()
        self.usage, self.active = usage, ['']
        self.parameters: dict[int, list[str]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            self.parameters[storage_key(parameter)].append(name)
        self.norm_outputs: dict[int, tuple[str, StorageWeakRef]] = {}
        self.units = UnitTracker()
        self.linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}

    def hooks(self, name: str, module: nn.Module) -> tuple[Any, Any]:
        """Return the hooks that keep account of whose code is running."""
        is_norm = isinstance(module, nn.LayerNorm)

        def enter(_module: nn.Module, _args: Any) -> None:
            self.usage.calls[name] += 1
            self.active.append(name)

        def leave(_module: nn.Module, _args: Any, output: Any) -> None:
            while self.active.pop() != name:  # a forward that raised left its own name behind
                continue
            if is_norm and isinstance(output, Tensor):
                self.norm_outputs[storage_key(output)] = name, StorageWeakRef(output.untyped_storage())
            if name in self.linears:
                self.units.begin(name, output)
            elif not name:
                self.units.leave_model(output)

        return enter, leave

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        kernel = func.overloadpacket.__name__
        if not _is_paused.get() and not kernel.startswith(FACTORIES):
            self._record(kernel, list(nested_tensors([args, kwargs])))
            result = func(*args, **kwargs)
            module = self.active[-1]
            self.units.see(func, module, module in self.linears, args, kwargs, result)
            return result
        return func(*args, **kwargs)

    def _record(self, kernel: str, tensors: list[Tensor]) -> None:
        module, known = self.active[-1], 0
        for tensor in tensors:
            key = storage_key(tensor)
            for name in self.parameters.get(key, ()):
                self.usage.users[name][module].add(kernel)
                known += 1
            if key in self.norm_outputs:
                norm, storage = self.norm_outputs[key]
                if storage.expired():  # the memory belongs to another tensor by now
                    del self.norm_outputs[key]
                else:
                    self.usage.consumers[norm].add(module)
        if kernel in PRODUCTS and not known:
            self.usage.products[module][kernel] += 1


@torch.no_grad()
def parameter_owners(model: nn.Module) -> dict[str, list[str]]:
    """Return parameter name -> names of the other parameters that share memory with it; only those that share.

    Names are all there are, also second ones of one Parameter; those of a module that is itself known under two names
    are not counted twice.
    """
    groups: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
    for module_name, module in model.named_modules():
        for child, parameter in module._parameters.items():
            if parameter is not None and parameter.numel():
                name = f'{module_name}.{child}' if module_name else child
                start = parameter.data_ptr()
                stop = start + parameter.element_size() * parameter.numel()
                groups[storage_key(parameter)].append((name, start, stop))
    shared: dict[str, list[str]] = {}
    for members in groups.values():
        for name, start, stop in members if len(members) > 1 else ():
            others = [n for n, first, last in members if n != name and first < stop and start < last]
            if others:
                shared[name] = others
    return shared
