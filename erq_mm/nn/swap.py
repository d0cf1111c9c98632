"""Put quantized modules into a model, in place, under the names of the modules they replace."""

from collections.abc import Mapping

from torch import nn

from ..core.spec import QuantSpec
from .attention import QuantWindowMSA, ShiftedWindows
from .layers import QuantConv2d, QuantLayer, QuantLinear
from .matmul import QuantMatMul
from .structure import Site, is_window_attention


def swap_(
    model: nn.Module,
    sites: list[Site],
    weight_specs: Mapping[str, QuantSpec],
    input_specs: Mapping[str, tuple[QuantSpec, ...]],
) -> dict[str, QuantLayer | QuantMatMul]:
    """Replace the modules of `sites`; return the new ones by name, in the order of `sites`.

    Args:
        model: changed in place; the order of its modules and the names of its parameters stay. Must not itself be one
            of the layers.
        sites: from `find_sites`.
        weight_specs: by site name, for layers.
        input_specs: by site name, one spec per operand.

    A LayerNorm's Linear without bias gets one (zero), which reparameterization needs. Products of attention that are
    not among the sites exist, and stay float.
    """
    wanted = {site.name: site for site in sites}
    if '' in wanted:
        raise ValueError('the model is itself a single layer; wrap it, e.g. nn.Sequential(layer)')
    swapped: dict[str, QuantLayer | QuantMatMul] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)) and name in wanted:
            kind = QuantLinear if isinstance(module, nn.Linear) else QuantConv2d
            create_bias = wanted[name].norm is not None
            swapped[name] = kind(module, weight_specs[name], input_specs[name][0], create_bias)
            _replace(model, module, swapped[name])
    for name, module in list(model.named_modules()):
        if is_window_attention(module) and any(n.rpartition('.')[0] == name for n in wanted):
            swapped.update(_swap_attention(model, name, module, wanted, input_specs))
    return {site.name: swapped[site.name] for site in sites}


def _swap_attention(
    model: nn.Module,
    name: str,
    attention: nn.Module,
    wanted: Mapping[str, Site],
    specs: Mapping[str, tuple[QuantSpec, ...]],
) -> dict[str, QuantMatMul]:
    products = {}
    for child in ('query_key', 'probability_value'):
        full_name = f'{name}.{child}' if name else child
        products[full_name] = QuantMatMul(*specs.get(full_name, (QuantSpec(8), QuantSpec(8))))
    _replace(model, attention, QuantWindowMSA(attention, *products.values()))
    parent_name = name.rpartition('.')[0]
    parent = model.get_submodule(parent_name)
    if hasattr(parent, 'shift_size'):
        _replace(model, parent, ShiftedWindows(parent))
    return {key: product for key, product in products.items() if key in wanted}


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put `new` wherever `old` is a child: a shared module stays shared."""
    for parent in list(model.modules()):
        for child_name, child in parent.named_children():
            if child is old:
                setattr(parent, child_name, new)
