"""The parts of torch around tensors: torch.cuda, generators, files, and mmcv's compiled operators."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .logical_tensors import CPU, KEY, as_device, describe, device_of, put, tensors_in

BEFORE_TORCH = 5  # priority of our rule for files; torch's own begin at 10


class LogicalGenerator(torch.Generator):
    """torch.Generator(device) for a device that is not there."""

    def __new__(cls, device: Any = 'cpu') -> 'LogicalGenerator':
        generator = super().__new__(cls)
        generator.logical = as_device(device)
        return generator

    @property
    def device(self) -> torch.device:
        return self.logical


def generator_device(generator: torch.Generator) -> torch.device:
    return getattr(generator, 'logical', CPU)


@contextlib.contextmanager
def pretend(devices: int) -> Iterator[None]:
    """Let torch.cuda say that there are so many GPUs, each with a generator; optimizers group by logical device."""
    generators = tuple(LogicalGenerator(f'cuda:{index}') for index in range(devices))

    def own(device: Any = 'cuda') -> torch.Generator:
        return generators[as_device(device).index]

    answers = {
        'is_available': lambda: True,
        'is_initialized': lambda: True,
        'device_count': lambda: devices,
        'current_device': lambda: 0,
        'get_device_name': lambda *_: 'logical',
        'get_device_capability': lambda *_: (8, 0),
        'max_memory_allocated': lambda *_: 0,
        'device': lambda *_: contextlib.nullcontext(),
        'default_generators': generators,
        'get_rng_state': lambda device='cuda': own(device).get_state(),
        'set_rng_state': lambda state, device='cuda': own(device).set_state(state),
        'manual_seed': lambda seed: generators[0].manual_seed(seed),
        'manual_seed_all': lambda seed: [generator.manual_seed(seed) for generator in generators],
    }
    nothing = ('synchronize', 'empty_cache', 'reset_peak_memory_stats', 'set_device', 'init', '_lazy_init')
    answers |= {name: lambda *_, **__: None for name in nothing}
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(torch, 'Generator', LogicalGenerator))
        stack.enter_context(mock.patch.object(torch.accelerator, 'empty_host_cache', lambda: None))
        stack.enter_context(mock.patch('torch.optim.optimizer._group_tensors_by_device_and_dtype', _grouped))
        yield


def _grouped(lists: Any, with_indices: bool = False) -> dict:
    groups: dict = {}
    for index, first in enumerate(lists[0]):
        found, indices = groups.setdefault((device_of(first), first.dtype), ([[] for _ in lists], []))
        for kept, given in zip(found, lists, strict=True):
            kept.extend(given[index : index + 1])
        indices.append(index)
    return groups


def _location(storage: Any) -> str | None:
    marks = storage if isinstance(storage, torch.UntypedStorage) else storage.untyped()
    device = getattr(marks, KEY, None)
    return None if device is None else str(device)


def _restore(storage: Any, location: str) -> Any:
    if not location.startswith('cuda') or torch.Generator is not LogicalGenerator:
        return None  # torch's own rule applies
    storage.__dict__[KEY] = as_device(location)
    return storage


# files name the device, and come back to it unless map_location says otherwise
torch.serialization.register_package(BEFORE_TORCH, _location, _restore)


@contextlib.contextmanager
def extensions(fault: Callable[[str], None]) -> Iterator[None]:
    """Check the operands of mmcv's compiled operators; their insides are not looked at."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith('mmcv.ops.')]
    with contextlib.ExitStack() as stack:
        for module in modules:
            if hasattr(module, 'ext_module'):
                stack.enter_context(mock.patch.object(module, 'ext_module', _Extension(module.ext_module, fault)))
        yield


class _Extension:
    def __init__(self, module: Any, fault: Callable[[str], None]) -> None:
        self._module, self._fault = module, fault

    def __getattr__(self, name: str) -> Any:
        operator = getattr(self._module, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            operands = [t for t in tensors_in(args, kwargs) if t.numel()]
            found = {device_of(t) for t in operands}
            if len(found) > 1:
                self._fault(f'{name}: {describe(operands)}')
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                out = operator(*args, **kwargs)
            for t in tensors_in(out):
                put(t, next(iter(found), CPU))
            return out

        return call if callable(operator) else operator
