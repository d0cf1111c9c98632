"""Whether a module is what it looks like: decided by its type, or by running it; names and shapes prove nothing."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

# what a subclass may define without changing what its base class computes in a forward
HARMLESS = {
    '__init__', 'init_weights', 'extra_repr', '__repr__', '__str__', 'train', 'state_dict', 'load_state_dict',
    '_load_from_state_dict', '_save_to_state_dict', 'reset_parameters', '_freeze_stages', 'no_weight_decay',
}  # fmt: skip
# what decides about a forward even if the base class leaves it to nn.Module
DECISIVE = {'forward', '__call__', '_call_impl', '__getattr__', '__getattribute__'}
PLAIN_TYPES = (nn.Linear, nn.Conv2d, nn.modules.linear.NonDynamicallyQuantizableLinear)
# their forward is that of torch, but for empty inputs under torch 1.5
PLAIN_WRAPPERS = {'mmcv.cnn.bricks.wrappers.Linear', 'mmcv.cnn.bricks.wrappers.Conv2d'}
PROBE_SCALES = (1.0, 3.0)
PROBE_ROWS = 5


def type_name(module: nn.Module | type) -> str:
    """Return `package.module.Class` of a module or class."""
    kind = module if isinstance(module, type) else type(module)
    return f'{kind.__module__}.{kind.__qualname__}'


def has_own_behaviour(module: nn.Module) -> bool:
    """Whether this one instance does more than its class says: hooks, parametrizations, a forward of its own."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    return bool(hooks) or bool(DECISIVE & vars(module).keys()) or parametrize.is_parametrized(module)


def is_exactly(module: Any, name: str | tuple[str, ...]) -> bool:
    """Whether a module computes what the class `name` computes, or one of several classes.

    It does if its class is that one or inherits every method of it that a forward could use, and if the instance has
    no hooks, no parametrized weights and no forward of its own.

    Args:
        name: as `type_name` gives it, so that the class need not be imported.
    """
    if not isinstance(module, nn.Module) or has_own_behaviour(module):
        return False
    names = (name,) if isinstance(name, str) else name
    return any(_inherits_behaviour(module, each) for each in names)


def _inherits_behaviour(module: nn.Module, name: str) -> bool:
    """Whether the class of a module is the one of this name, or redefines nothing of it that a forward could use."""
    family = type(module).__mro__
    base = next((kind for kind in family if type_name(kind) == name), None)
    if base is None:
        return False
    ancestors = [kind for kind in base.__mro__ if kind not in nn.Module.__mro__]
    inherited = DECISIVE.union(*(vars(kind) for kind in ancestors)) - HARMLESS
    own = [vars(kind) for kind in family[: family.index(base)]]
    return not any(
        attribute in inherited and callable(value) for attributes in own for attribute, value in attributes.items()
    )


@dataclass(frozen=True)
class PlainLayer:
    """A linear layer or convolution as a function: y = W x + b, with the convolution's own strides and padding."""

    weight: Tensor
    bias: Tensor | None


def as_plain_layer(layer: nn.Linear | nn.Conv2d) -> PlainLayer | str:
    """Return what a layer multiplies by, or the reason why it is no plain linear layer or convolution.

    A layer of another type than `nn.Linear`, `nn.Conv2d` and mmcv's wrappers of them, or with hooks or
    parametrizations, is run on random inputs of two magnitudes: if it is a plain layer with some other weight
    (standardised, normalised, parametrized), it is taken for one with that weight; if it also changes its input, or
    depends on it otherwise, it is not plain.
    """
    is_known = type(layer) in PLAIN_TYPES or type_name(layer) in PLAIN_WRAPPERS
    if is_known and not has_own_behaviour(layer):
        return PlainLayer(layer.weight, layer.bias)
    was_training = layer.training
    layer.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return _verified(layer)
    except Exception as error:  # whatever the forward of a user's class raises on an input of ours
        return f'{_kind(layer)} with a forward of its own, which cannot be checked ({type(error).__name__}: {error})'
    finally:
        layer.train(was_training)


def _verified(layer: nn.Linear | nn.Conv2d) -> PlainLayer | str:
    found: PlainLayer | None = None
    for seed, scale in enumerate(PROBE_SCALES):
        x = _random_input(layer, seed) * scale
        with _ProductSpy() as spy:
            output = layer(x)
        calls = [call for call in spy.calls if call.weight.shape == _weight_shape(layer)]
        if len(calls) != 1:
            return f'{_kind(layer)} with a forward of its own: not one product with its weight but {len(calls)}'
        call = calls[0]
        if found is not None and not _same(found.weight, call.weight):
            return f'{_kind(layer)} with a forward of its own: its weight depends on the input'
        found = PlainLayer(_kept(call.weight), None if call.bias is None else _kept(call.bias))
        if not isinstance(output, Tensor) or not _same(output, _product(layer, x, found)):
            return f'{_kind(layer)} with a forward of its own: more than a product of its input with a weight'
    return found


def _kept(tensor: Tensor) -> Tensor:
    """Return a parameter as it is; what a forward has made of parameters as a tensor of its own."""
    return tensor if isinstance(tensor, nn.Parameter) else tensor.detach().clone()


def _kind(layer: nn.Module) -> str:
    base = 'linear layer' if isinstance(layer, nn.Linear) else 'convolution'
    return f'{base} of type {type(layer).__name__}'


def _weight_shape(layer: nn.Linear | nn.Conv2d) -> tuple[int, ...]:
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    return layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size


def _random_input(layer: nn.Linear | nn.Conv2d, seed: int) -> Tensor:
    """Return an input that is long enough for every kernel, on the device and in the dtype of the layer."""
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = (PROBE_ROWS, layer.in_features)
    else:
        sides = zip(layer.kernel_size, layer.dilation, layer.stride, strict=True)
        shape = (
            2,
            layer.in_channels,
            *(dilation * (kernel - 1) + 1 + 2 * stride for kernel, dilation, stride in sides),
        )
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x.to(next(layer.parameters()))


def _product(layer: nn.Linear | nn.Conv2d, x: Tensor, plain: PlainLayer) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, plain.weight, plain.bias)
    return F.conv2d(x, plain.weight, plain.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    a, b = a.double(), b.double()
    tolerance = 1e-5 * float(b[b.isfinite()].abs().max()) if bool(b.isfinite().any()) else 0.0
    return torch.allclose(a, b, rtol=1e-5, atol=tolerance, equal_nan=True)


class _ProductSpy(TorchFunctionMode):
    """Collect the weights and biases of every linear product and convolution while the block runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[PlainLayer] = []

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.linear, F.conv2d):
            given = dict(zip(('input', 'weight', 'bias'), args, strict=False)) | kwargs
            self.calls.append(PlainLayer(given['weight'], given.get('bias')))
        return func(*args, **kwargs)
