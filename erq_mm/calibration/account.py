"""The full account: what a forward used, and what of it stays float for which reason."""

from collections.abc import Iterable

from torch import nn

from ..nn.architectures import why_unknown
from ..nn.structure import LAYER_TYPES, FloatLayers, Site
from ..nn.usage import Usage

LOOKUPS = {
    'embedding', 'index', 'index_select', 'gather', 'add', 'add_', 'sub', 'cat', 'stack', 'clone', 'copy_', '_to_copy',
    'expand', 'repeat', 'roll', '_index_put_impl_', 'upsample_bicubic2d', 'upsample_bilinear2d',
}  # fmt: skip
VIEWS = {
    'view', '_unsafe_view', 't', 'transpose', 'permute', 'expand', 'slice', 'select', 'unsqueeze', 'squeeze', 'detach',
    'alias', 'as_strided', 'unbind', 'split', 'split_with_sizes', '_reshape_alias', 'chunk',
}  # fmt: skip


def account(model: nn.Module, sites: Iterable[Site], float_layers: FloatLayers, usage: Usage) -> FloatLayers:
    """Return (name, reason) of everything that a forward used and that neither is a site nor is listed as float.

    These are parameters of two or more dimensions, by the module that has them, and products of two activations, by the
    module whose code forms them.
    """
    sites, modules = list(sites), dict(model.named_modules())
    made = {site.name.rpartition('.')[0] for site in sites if site.kind != 'matmul' and site.name not in modules}
    products = {site.name.rpartition('.')[0] for site in sites if site.kind == 'matmul'}
    known = {site.name for site in sites} | {name for name, _ in float_layers} | made
    left = _parameters(model, known, usage)
    silent = known | {name for name, _ in left} | products
    return left + _products(modules, silent, usage)


def _parameters(model: nn.Module, known: set[str], usage: Usage) -> FloatLayers:
    modules, found = dict(model.named_modules()), {}
    for name, parameter in model.named_parameters():
        owner = name.rpartition('.')[0]
        if parameter.dim() < 2 or _belongs_to(owner, known) or not usage.users.get(name):
            continue
        kernels = set().union(*usage.users[name].values()) - VIEWS
        reason = _reason(modules[owner], kernels)
        found[owner if name == f'{owner}.weight' else name] = reason
    return list(found.items())


def _belongs_to(owner: str, known: set[str]) -> bool:
    """Whether the owner of a parameter is a known layer or inside one, as the original of a parametrized weight is."""
    parts = owner.split('.')
    return any('.'.join(parts[:length]) in known for length in range(1, len(parts) + 1))


def _reason(owner: nn.Module, kernels: set[str]) -> str:
    kind = type(owner).__name__
    if isinstance(owner, nn.Embedding) or kernels <= LOOKUPS:
        return f'table or token of {kind}: looked up or added, not multiplied'
    if isinstance(owner, nn.MultiheadAttention):
        return 'fused attention (nn.MultiheadAttention) of a kind that is not known'
    if isinstance(owner, LAYER_TYPES):
        return f'{kind}: its weights are used without a call of the layer'
    if 'deform' in kind.lower():
        return f'deformable convolution ({kind}): its samples of the input are no rows of one matrix'
    return f'{kind} is no linear layer or convolution that is known (its weights go into {", ".join(sorted(kernels))})'


def _products(modules: dict[str, nn.Module], silent: set[str], usage: Usage) -> FloatLayers:
    found = []
    for name, kernels in usage.products.items():
        if name in silent:
            continue
        kind = type(modules[name]).__name__
        count = sum(kernels.values())
        why = why_unknown(modules[name])
        found.append((name or kind, f'{count} products of activations stay float: {why}'))
    return found
