"""`deploy_`: let the quantized layers of a model run as integers, in place, without export."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from ...nn.layers import QuantConv2d, QuantLayer, QuantLinear
from ...nn.matmul import QuantMatMul
from ...nn.swap import replace_modules_
from ...wording import first_of
from . import operators
from .codes import InputGrid, IntegerWeight, TooWide, input_grid, integer_weight
from .modules import IntegerConv2d, IntegerLayer, IntegerLinear
from .rows import run_in_chunks_
from .self_test import why_different
from .surroundings import speed_up_surroundings_

WIDE_WEIGHTS = ('refuse', 'simulate')
NAMED = 4
PRODUCT = 'product of two activations: simulated, as quantizing it does not pay on CPUs'


@dataclass
class Deployment:
    """What `deploy_` has done.

    Attributes:
        integer: names of the layers that run as integers.
        simulated: name -> why the layer or product is still simulated in float.
        chunked: names of the sequences that run in chunks of rows that stay in the cache.
        faster: names of float parts between them that run in faster kernels of the same function.
    """

    integer: list[str] = field(default_factory=list)
    simulated: dict[str, str] = field(default_factory=dict)
    chunked: list[str] = field(default_factory=list)
    faster: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = len(self.integer) + len(self.simulated)
        lines = [f'{len(self.integer)} of {total} quantized layers and products run as integers']
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.simulated.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f'simulated: {first_of(names, NAMED)}: {reason}' for reason, names in by_reason.items()]
        return '\n'.join(lines)


def deploy_(model: nn.Module, wide_weights: str = 'refuse', channels_last: bool = False) -> Deployment:
    """Replace the quantized layers of `model` by ones that multiply integers, in place, and return what was done.

    Each layer is compared with its simulation before it is replaced. What kernels cannot do, what differs, and
    everything where this CPU or torch lacks the operators stays simulated, named with the reason: the model's function
    is that of the simulation up to float32 rounding.

    Args:
        model: quantized and on the CPU; left in eval mode. It cannot be trained or moved to another device after.
        wide_weights: what to do with weights whose codes do not fit int8, which only 8-bit rows off centre have:
            `refuse`, an error before anything is changed; or `simulate` those layers.
        channels_last: let convolutions return the memory order that kernels write, see `IntegerConv2d`.

    Raises:
        ValueError: no quantized layer; integer layers already; a parameter off the CPU or of another type than float32;
            weights that do not fit int8, naming the layers.
    """
    if wide_weights not in WIDE_WEIGHTS:
        raise ValueError(f'wide_weights must be one of {WIDE_WEIGHTS}, got {wide_weights!r}')
    layers = _quantized_layers(model)
    model.eval()
    result, plans = Deployment(), {name: _plan(layer) for name, layer in layers.items()}
    too_wide = {name: plan for name, plan in plans.items() if isinstance(plan, TooWide)}
    if too_wide and wide_weights == 'refuse':
        _refuse(too_wide)
    unavailable = operators.why_unavailable()
    replacements: dict[nn.Module, nn.Module] = {}
    for name, plan in plans.items():
        if unavailable is not None or not isinstance(plan, tuple):
            result.simulated[name] = unavailable or str(plan)
            continue
        integer = _integer_layer(layers[name], plan, channels_last)
        difference = why_different(layers[name], integer)
        if difference is not None:
            result.simulated[name] = difference
            continue
        replacements[layers[name]] = integer
        result.integer.append(name)
    replace_modules_(model, replacements)
    for name, module in model.named_modules():
        if isinstance(module, QuantMatMul) and (module.left_quantizer.is_active or module.right_quantizer.is_active):
            result.simulated[name] = PRODUCT
    if result.integer:
        result.chunked, result.faster = run_in_chunks_(model), speed_up_surroundings_(model)
    return result


def _quantized_layers(model: nn.Module) -> dict[str, QuantLayer]:
    """Return the quantized layers by name, after the checks that need no look at them."""
    deployed = [name for name, module in model.named_modules() if isinstance(module, IntegerLayer)]
    if deployed:
        raise ValueError(f'the model runs as integers already ({len(deployed)} layers, e.g. {deployed[0]})')
    layers = {name: module for name, module in model.named_modules() if isinstance(module, QuantLayer)}
    if not layers:
        raise ValueError(
            f'{type(model).__name__} has no quantized layer: quantize it first, e.g. with erq_mm.quantize_, or load a '
            'quantized one'
        )
    if '' in layers:
        raise ValueError('the model is itself a single layer; wrap it, e.g. nn.Sequential(layer)')
    for name, parameter in model.named_parameters():
        if parameter.device.type != 'cpu':
            raise ValueError(
                f'integer layers run on CPUs only: {name} is on {parameter.device}; call model.cpu() first'
            )
    for name, layer in layers.items():
        if layer.weight.dtype != torch.float32:
            raise ValueError(
                f'{name}.weight is {layer.weight.dtype}, integer layers return float32: call model.float()'
            )
    return layers


def _plan(layer: QuantLayer) -> tuple[IntegerWeight, InputGrid] | TooWide | str:
    weight, grid = integer_weight(layer), input_grid(layer.input_quantizer)
    if isinstance(grid, str):  # a layer that is simulated for its input need not fit otherwise
        return grid
    return weight if not isinstance(weight, IntegerWeight) else (weight, grid)


def _refuse(too_wide: Mapping[str, TooWide]) -> None:
    first = next(iter(too_wide))
    raise ValueError(
        f'{len(too_wide)} layers have weights that do not fit int8: {first_of(list(too_wide), NAMED)}; of {first}, '
        f"{too_wide[first]}. Quantize with symmetric rows (recipe=dict(type='erq', deploy=True)) or at most 7 bits, or "
        "leave these layers simulated (wide_weights='simulate')"
    )


def _integer_layer(layer: QuantLayer, plan: tuple[IntegerWeight, InputGrid], channels_last: bool) -> IntegerLayer:
    if isinstance(layer, QuantConv2d):
        return IntegerConv2d(layer, *plan, channels_last)
    assert isinstance(layer, QuantLinear)
    return IntegerLinear(layer, *plan)
