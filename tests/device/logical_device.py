"""A GPU that is not there: find device faults on a machine without one.

Everything is computed on the CPU. Inside `with LogicalDevice():` code may say device='cuda' (or 'cuda:1'), .to('cuda'),
.cuda() and `torch.cuda.is_available()`; `tensor.device` answers accordingly, and what CUDA refuses raises.

Two modes cooperate: `_Api` sees the Python functions (`device=`, .to, .device, .numpy()), `_Kernels` every ATen kernel,
also those of composites, backward passes and fused optimizers: it checks the operands and passes their device on.

Faults: operands on different devices (CPU scalars pass where CUDA lets them), outputs and in-place on the wrong device,
indices, generators, conversion to NumPy, gradients whose device is not the leaf's, operands of mmcv's operators, and
kernels without a deterministic implementation while one is asked for. Waits for the GPU are counted by line.

Not seen: numerics of CUDA, autocast, streams, memory, and factories without `device=` inside a Python
`autograd.Function.backward`. It leans on private parts of torch 2.13.
"""

import contextlib
import sys
from collections import Counter
from functools import cache
from typing import Any

import torch
import torch._dynamo  # noqa: F401  refuses to be imported once torch.cuda is patched
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .logical_cuda import extensions, generator_device, pretend
from .logical_tensors import CPU, PINNED, as_device, describe, device_of, has_place, is_cuda, move, put, tensors_in

PACKAGE = 'erq_mm/'
COPIES = {'copy_', 'copy', 'set_', 'set', '_copy_from'}
INDEXED = {'index', 'index_put', 'index_put_', '_index_put_impl_', '_unsafe_index', '_unsafe_index_put'}
# these refuse a CPU tensor of zero dimensions, too
STRICT = {
    'cat', 'stack', 'mm', 'addmm', 'addmm_', 'bmm', 'baddbmm', 'mv', 'dot', 'linear', 'convolution', 'gather',
    'scatter', 'scatter_', 'scatter_add', 'scatter_add_', 'index_select', 'index_add', 'index_add_',
    'embedding', 'searchsorted', 'take', 'index_copy_', 'native_layer_norm', 'native_batch_norm', 'bincount',
    'histc', 'linalg_solve_triangular', 'cholesky_solve', 'quantile',
}  # fmt: skip
WAITS = {'_local_scalar_dense', 'nonzero', 'masked_select', 'bincount', 'is_nonzero', 'equal', '_unique2', 'unique_dim'}
NOT_DETERMINISTIC = {
    'histc', 'put_', 'kthvalue', 'nll_loss2d_forward', 'upsample_bilinear2d_backward', 'upsample_linear1d_backward',
    'upsample_bicubic2d_backward', 'grid_sampler_2d_backward', '_adaptive_avg_pool2d_backward', 'max_unpool2d',
    'reflection_pad2d_backward',
}  # fmt: skip


OPTIONS = {'device', 'generator', 'pin_memory'}


class LogicalDevice:
    """The context manager.

    Args:
        devices: how many GPUs there are.

    Attributes:
        waits: how often a line of the package stopped for the GPU, 'erq_mm/core/ridge.py:49' -> times.
        call: operands of the Python function under way: factories in C++ follow their device.
    """

    def __init__(self, devices: int = 1) -> None:
        self.devices, self.waits = devices, Counter()
        self.call: tuple = ()

    def fault(self, text: str, kind: type[Exception] = RuntimeError) -> None:
        raise kind(f'{text} [{self._place()}]')

    def wait(self) -> None:
        self.waits[self._place()] += 1

    def _place(self) -> str:
        """Return file:line of the innermost frame in the package."""
        frame = sys._getframe(1)
        while frame is not None:
            name = frame.f_code.co_filename
            if PACKAGE in name:
                return f'{name[name.rindex(PACKAGE) :]}:{frame.f_lineno}'
            frame = frame.f_back
        return 'outside the package'

    def __enter__(self) -> 'LogicalDevice':
        self._stack = contextlib.ExitStack()
        for part in (pretend(self.devices), extensions(self.fault), _Kernels(self), _Api(self)):
            self._stack.enter_context(part)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)


class _Kernels(TorchDispatchMode):
    """Rules for ATen kernels."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # what keeps a compiler out costs as much as the rules do

    def __init__(self, log: LogicalDevice) -> None:
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = tensors_in(args, kwargs) if kwargs else tensors_in(args)
        devices = [device_of(t) for t in tensors]
        device = _gpu_of(devices) if tensors else _gpu_of([device_of(t) for t in tensors_in(self.log.call)])
        if device is None:
            return func(*args, **kwargs)
        name = _name(func)
        if tensors:
            self._count_waits(name, args)
            if name not in COPIES and name != '_to_copy':
                self._check(func, name, args, kwargs, tensors, devices)
        out = func(*args, **kwargs)
        if name not in COPIES:
            for t in tensors_in(out):
                if not tensors or not (has_place(t) or any(t is known for known in tensors)):
                    put(t, device)
        return out

    def _check(
        self, func: Any, name: str, args: tuple, kwargs: dict, tensors: list[Tensor], devices: list[torch.device]
    ) -> None:
        if any(d.type == 'cuda' and d != devices[0] for d in devices) and len({*devices} - {CPU}) > 1:
            self.log.fault(f'{name}: expected all tensors on the same device, found {describe(tensors)}')
        if torch.are_deterministic_algorithms_enabled() and _is_refused(name, args, tensors):
            self.log.fault(f'{name} does not have a deterministic implementation')
        if name in INDEXED:
            self._check_index(name, *args[:3])
        elif name.startswith(('_foreach', '_fused')):
            self._check_lists(name, args)
        elif CPU in devices:
            self._check_operands(func, name, args, kwargs, tensors)

    def _count_waits(self, name: str, args: tuple) -> None:
        is_masked = name in INDEXED and any(i.dtype in (torch.bool, torch.uint8) for i in tensors_in(args[1]))
        is_copied = name == 'copy_' and is_cuda(args[0]) != is_cuda(args[1]) and not _is_pinned(*args[:2])
        if name in WAITS or is_masked or is_copied:
            self.log.wait()

    def _check_index(self, name: str, me: Tensor, indices: Any, values: Tensor | None = None) -> None:
        if not is_cuda(me) and any(is_cuda(i) for i in tensors_in(indices)):
            self.log.fault(f'{name}: indices should be on the device of the indexed tensor (cpu), they are on cuda')
        if isinstance(values, Tensor) and values.dim() and device_of(values) != device_of(me):
            self.log.fault(f'{name}: indexed tensor and values on different devices: {describe([me, values])}')

    def _check_lists(self, name: str, args: tuple) -> None:
        for together in zip(*(a for a in args if isinstance(a, (list, tuple)) and a), strict=False):
            tensors = tensors_in(together)
            if len({device_of(t) for t in tensors}) > 1:
                self.log.fault(f'{name}: one parameter and its gradient or state: {describe(tensors)}')

    def _check_operands(self, func: Any, name: str, args: tuple, kwargs: dict, tensors: list[Tensor]) -> None:
        """Some operand is on the CPU: only a scalar may be, and not for every kernel, nor as the result."""
        if any(not is_cuda(t) and (t.dim() or name in STRICT) for t in tensors):
            self.log.fault(f'{name}: expected all tensors on the same device, found {describe(tensors)}')
        given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
        for argument in func._schema.arguments:
            if argument.alias_info is not None and argument.alias_info.is_write:
                if any(not is_cuda(t) and t.numel() for t in tensors_in(given.get(argument.name))):
                    self.log.fault(f"{name}: output with device cpu doesn't match the desired device cuda")


def _gpu_of(devices: list[torch.device]) -> torch.device | None:
    for device in devices:
        if device.type == 'cuda':
            return device
    return None


@cache
def _name(func: Any) -> str:
    return func._schema.name.partition('::')[2]


def _is_refused(name: str, args: tuple, tensors: list[Tensor]) -> bool:
    """Whether CUDA has no deterministic kernel for it."""
    if name in ('cumsum', 'cumsum_'):
        return tensors[0].dtype.is_floating_point
    if name == 'bincount':
        return len(tensors) > 1  # weights
    return name in NOT_DETERMINISTIC or (name == 'median' and len(args) > 1)


def _is_pinned(*tensors: Tensor) -> bool:
    return any(getattr(t.untyped_storage(), PINNED, False) for t in tensors)


class _Api(TorchFunctionMode):
    """Rules for the Python functions."""

    def __init__(self, log: LogicalDevice) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(func, '__name__', '') in ('__get__', '__set__'):
            return self._attribute(func, args)
        if func in SPECIAL:
            return SPECIAL[func](self, func, args, dict(kwargs or {}))
        if kwargs and not OPTIONS.isdisjoint(kwargs):
            return self._with_options(func, args, dict(kwargs))
        return self._call(func, args, kwargs or {})

    def _with_options(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Call a function that says where its result or its random numbers are."""
        wanted, generator = as_device(kwargs.get('device')), kwargs.get('generator')
        pinned, inputs = kwargs.pop('pin_memory', False), tensors_in(args, kwargs)
        if wanted is not None:
            kwargs['device'] = CPU
        expected = wanted or next(map(device_of, inputs), CPU)
        if generator is not None and generator_device(generator) != expected:
            self.log.fault(f'{func.__name__}: expected a generator on {expected}, found {generator_device(generator)}')
        out = self._call(func, args, kwargs)
        if pinned:
            out.untyped_storage().__dict__[PINNED] = True
        return out if wanted is None else self._move(out, wanted, inputs)

    def _call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        before, self.log.call = self.log.call, (args, kwargs)
        try:
            return func(*args, **kwargs)
        finally:
            self.log.call = before

    def _move(self, out: Any, device: torch.device, inputs: list[Tensor], non_blocking: bool = False) -> Any:
        def transferred(tensor: Tensor) -> None:
            if not (non_blocking and _is_pinned(tensor)):
                self.log.wait()

        before, self.log.call = self.log.call, ()
        try:
            return move(out, device, inputs, transferred)
        finally:
            self.log.call = before

    def _attribute(self, func: Any, args: tuple) -> Any:
        attribute, me = func.__self__, args[0]
        if attribute is Tensor.device:
            return device_of(me)
        if attribute is Tensor.is_cuda:
            return is_cuda(me)
        if attribute is Tensor.is_cpu:
            return not is_cuda(me)
        if attribute is not Tensor.grad:
            return func(*args)
        if len(args) == 2 and isinstance(args[1], Tensor) and device_of(args[1]) != device_of(me):
            self.log.fault(f'assigned grad and its parameter on different devices: {describe([args[1], me])}')
        out = func(*args)
        if isinstance(out, Tensor) and device_of(out) != device_of(me):
            if out.dim():  # as autograd's engine checks what a backward function returned; it moves scalars
                self.log.fault(f'backward: invalid gradient, its device and that of its leaf: {describe([out, me])}')
            return self._move(out, device_of(me), [])
        return out

    def to(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        """Split Tensor.to into what changes the dtype and what changes the device."""
        me, kwargs = args[0], dict(kwargs)
        device, non_blocking = kwargs.pop('device', None), kwargs.pop('non_blocking', False)
        for option in args[1:]:
            if isinstance(option, Tensor):
                device, kwargs['dtype'] = device_of(option), option.dtype
            elif isinstance(option, torch.dtype):
                kwargs['dtype'] = option
            elif option is not None and not isinstance(option, bool):
                device = option
        out = func(me, **kwargs) if kwargs else me
        return out if device is None else self._move(out, as_device(device), [me], non_blocking)

    def cuda(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        device = args[1] if len(args) > 1 else kwargs.get('device')
        return self._move(args[0], as_device('cuda' if device is None else device), [args[0]])

    def cpu(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        return self._move(args[0], CPU, [args[0]])

    def numpy(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if is_cuda(args[0]):
            self.log.fault("can't convert a cuda tensor to numpy, use Tensor.cpu() first", TypeError)
        return func(*args, **kwargs)

    def tolist(self, func: Any, args: tuple, kwargs: dict) -> Any:
        if is_cuda(args[0]):
            self.log.wait()
        return func(*args, **kwargs)

    def get_device(self, func: Any, args: tuple, kwargs: dict) -> int:
        return device_of(args[0]).index if is_cuda(args[0]) else -1

    def deepcopy(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        out = func(*args, **kwargs)
        put(out, device_of(args[0]))
        return out

    def from_data(self, func: Any, args: tuple, kwargs: dict) -> Tensor:
        """torch.tensor, torch.as_tensor, new_tensor: where the data is, unless device= says otherwise."""
        wanted = as_device(kwargs.pop('device', None))
        source = tensors_in(args[0])
        if wanted is None and isinstance(args[0], Tensor):
            wanted = device_of(args[0])
        out = func(*args, **kwargs)
        return out if wanted is None else self._move(out, wanted, source)

    def type(self, func: Any, args: tuple, kwargs: dict) -> Any:
        out = func(*args, **kwargs)
        return out.replace('torch.', 'torch.cuda.', 1) if isinstance(out, str) and is_cuda(args[0]) else out


SPECIAL = {
    Tensor.to: _Api.to, Tensor.cuda: _Api.cuda, Tensor.cpu: _Api.cpu, Tensor.numpy: _Api.numpy,
    Tensor.__array__: _Api.numpy, Tensor.tolist: _Api.tolist, Tensor.get_device: _Api.get_device,
    Tensor.__deepcopy__: _Api.deepcopy, torch.tensor: _Api.from_data, torch.as_tensor: _Api.from_data,
    Tensor.new_tensor: _Api.from_data, Tensor.type: _Api.type,
}  # fmt: skip
