"""Put quantized modules into a model, in place, under the names of the modules they replace."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from ..core.spec import CHANNEL_GRIDS, QuantSpec
from .architectures import part_of
from .layers import QuantConv2d, QuantLayer, QuantLinear
from .matmul import QuantMatMul
from .structure import Site


def swap_(
    model: nn.Module,
    sites: list[Site],
    weight_specs: Mapping[str, QuantSpec],
    input_specs: Mapping[str, tuple[QuantSpec, ...]],
) -> dict[str, QuantLayer | QuantMatMul]:
    """Replace the modules of `sites`; return the new ones by name, in the order of `sites`.

    Everything that can fail is done before the first module is replaced.

    Args:
        model: changed in place; the order of its modules and the names of its parameters stay. Must not itself be one
            of the layers.
        sites: from `find_sites`.
        weight_specs: by site name, for layers.
        input_specs: by site name, one spec per operand.

    A Linear without bias gets one (zero) where a change of variables of its input needs it: behind a LayerNorm, or with
    a grid per channel. Products of attention that are
    not among the sites exist, and stay float. A module that stands in several places is replaced in all of them.
    """
    wanted = {site.name: site for site in sites}
    if '' in wanted:
        raise ValueError('the model is itself a single layer; wrap it, e.g. nn.Sequential(layer)')
    swapped: dict[str, QuantLayer | QuantMatMul] = {}
    replacements: dict[nn.Module, nn.Module] = {}
    for name, module in model.named_modules():
        if name in swapped:  # made by the replacement of its parent
            continue
        if name in wanted:
            kind = QuantLinear if isinstance(module, nn.Linear) else QuantConv2d
            create_bias = wanted[name].norm is not None or input_specs[name][0].grid in CHANNEL_GRIDS
            replacements[module] = swapped[name] = kind(module, weight_specs[name], input_specs[name][0], create_bias)
        elif _is_replaced(name, module, wanted):
            part = part_of(module)
            products = {f'{name}.{child}': child for child in part.products}
            built = {child: _product(input_specs.get(full)) for full, child in products.items()}
            new = replacements[module] = part.replacement(module, built)
            swapped.update({full: built[child] for full, child in products.items()})
            for child in (child for child in part.makes if f'{name}.{child}' in wanted):
                full = f'{name}.{child}'
                layer = QuantLinear(new.get_submodule(child), weight_specs[full], input_specs[full][0])
                swapped[full] = new._modules[child] = layer
    replace_modules_(model, replacements)
    return {site.name: swapped[site.name] for site in sites}


def _is_replaced(name: str, module: nn.Module, wanted: Mapping[str, Site]) -> bool:
    """Whether a known module has a replacement, and a site that needs it.

    A module that makes layers is replaced for one of these or for its products, any other also for a site inside it:
    its replacement and that of the module around it know each other.
    """
    part = part_of(module) if name else None
    if part is None or part.replacement is None:
        return False
    own = {*part.products, *part.makes} - set(module._modules)
    if any(f'{name}.{child}' in wanted for child in own):
        return True
    return not part.makes and any(site.startswith(f'{name}.') for site in wanted)


def _product(specs: tuple[QuantSpec, ...] | None) -> QuantMatMul:
    return QuantMatMul(*(specs or (QuantSpec(8), QuantSpec(8))))


def replace_modules_(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put every new module wherever the old one is a child, also below new ones."""
    for parent in [*model.modules(), *replacements.values()]:
        for name, child in parent._modules.items():
            if child in replacements:
                parent._modules[name] = replacements[child]


@contextmanager
def restored_on_error(model: nn.Module) -> Iterator[None]:
    """Put every module back in its place if the block fails; until a weight changes that is the float model again."""
    places = [(parent, name, child) for parent in model.modules() for name, child in parent._modules.items()]
    try:
        yield
    except BaseException:
        for parent, name, child in places:
            parent._modules[name] = child
        raise
