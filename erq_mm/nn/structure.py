"""Find what can be quantized in a model, and what each input is, from the structure alone.

Swin parts are recognised by their attributes (mmdet's names), so that no mm* package is imported; everything else by
type. A bare `nn.Sequential` is read pairwise: LayerNorm or GELU before a Linear.
"""

from dataclasses import dataclass

from torch import nn

from .layers import QuantLayer, why_not_quantizable

SCOPES = ('linears', 'all')
ROLES = (
    'image', 'linear_input', 'post_norm', 'post_gelu', 'query', 'key', 'value', 'post_softmax', 'conv_input',
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """One product that can be quantized.

    Attributes:
        name: of the layer in the model; for a product of activations, the name it will have.
        kind: `linear`, `conv` or `matmul`.
        roles: of the input; of both operands for a matmul.
        norm: name of the LayerNorm whose output is the input, if any.
        windows: name of the module that pads between that LayerNorm and the layer, if any.
        block: name of the Swin block, patch merging or patch embedding it belongs to, if any.
        is_merging: whether it is the reduction of patch merging.
        is_qkv: whether its output rows are the queries, keys and values of a window attention.
    """

    name: str
    kind: str
    roles: tuple[str, ...]
    norm: str | None = None
    windows: str | None = None
    block: str | None = None
    is_merging: bool = False
    is_qkv: bool = False


def find_sites(model: nn.Module, scope: str) -> tuple[list[Site], list[tuple[str, str]]]:
    """Return the sites of a scope in module order, and (name, reason) of layers that stay float.

    Args:
        model: any module.
        scope: `linears` (every Linear, window attention, the patch embedding) or `all` (also every Conv2d).

    Raises:
        ValueError: unknown scope, or a model that is quantized already.
    """
    if scope not in SCOPES:
        raise ValueError(f'scope must be one of {SCOPES}, got {scope!r}')
    modules = dict(model.named_modules())
    quantized = [name for name, module in modules.items() if isinstance(module, QuantLayer)]
    if quantized:
        raise ValueError(
            f'the model is quantized already ({len(quantized)} layers, e.g. {quantized[0]}); '
            'quantize a freshly loaded float model instead'
        )
    inputs, blocks = _named_inputs(modules), _blocks(modules)
    sites, left_float = [], []
    for name, module in modules.items():
        if is_window_attention(module):
            block = _enclosing(name, blocks)
            sites.append(Site(f'{name}.query_key', 'matmul', ('query', 'key'), block=block))
            sites.append(Site(f'{name}.probability_value', 'matmul', ('post_softmax', 'value'), block=block))
        if not isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            continue
        kind = 'linear' if isinstance(module, nn.Linear) else 'conv'
        role, norm, windows = inputs.get(name, (f'{kind}_input', None, None))
        reason = why_not_quantizable(module)
        if reason is None and scope == 'linears' and kind == 'conv' and role != 'image':
            reason = "convolution: outside scope 'linears'"
        if reason is None:
            block = _enclosing(name, blocks)
            is_merging = block is not None and _is_patch_merging(modules[block])
            parent, _, child = name.rpartition('.')
            is_qkv = child == 'qkv' and is_window_attention(modules[parent])
            sites.append(Site(name, kind, (role,), norm, windows, block, is_merging, is_qkv))
        else:
            left_float.append((name, reason))
    return sites, left_float


def _blocks(modules: dict[str, nn.Module]) -> set[str]:
    """Return the names of the parts of a Swin that block reconstruction treats as one."""
    found = {name for name, module in modules.items() if _is_swin_block(module) or _is_patch_merging(module)}
    for name, module in modules.items():
        if isinstance(getattr(module, 'patch_embed', None), nn.Module):
            found.add(f'{name}.patch_embed' if name else 'patch_embed')
    return found


def _enclosing(name: str, blocks: set[str]) -> str | None:
    while name:
        if name in blocks:
            return name
        name = name.rpartition('.')[0]
    return None


def is_window_attention(module: nn.Module) -> bool:
    """Whether a module is mmdet's `WindowMSA` or looks exactly like it."""
    parts = ('qkv', 'proj', 'relative_position_bias_table', 'relative_position_index', 'attn_drop', 'proj_drop')
    return all(hasattr(module, part) for part in parts)


def _named_inputs(modules: dict[str, nn.Module]) -> dict[str, tuple[str, str | None, str | None]]:
    """Return layer name -> (role of its input, LayerNorm before it, module that pads in between)."""
    found: dict[str, tuple[str, str | None, str | None]] = {}
    for name, module in modules.items():
        prefix = f'{name}.' if name else ''
        if _is_swin_block(module):
            found[f'{prefix}attn.w_msa.qkv'] = ('post_norm', _norm(module, prefix, 'norm1'), f'{prefix}attn')
            found[f'{prefix}ffn.layers.0.0'] = ('post_norm', _norm(module, prefix, 'norm2'), None)
            found[f'{prefix}ffn.layers.1'] = ('post_gelu', None, None)
        elif _is_patch_merging(module):
            found[f'{prefix}reduction'] = ('post_norm', _norm(module, prefix, 'norm'), None)
        elif isinstance(module, nn.Sequential):
            found.update(_sequential_inputs(module, prefix))
        if isinstance(getattr(module, 'patch_embed', None), nn.Module):
            found.setdefault(f'{prefix}patch_embed.projection', ('image', None, None))
    return found


def _norm(module: nn.Module, prefix: str, child: str) -> str | None:
    norm = getattr(module, child)
    return f'{prefix}{child}' if isinstance(norm, nn.LayerNorm) and norm.bias is not None else None


def _is_swin_block(module: nn.Module) -> bool:
    attention, ffn = getattr(module, 'attn', None), getattr(module, 'ffn', None)
    return (
        hasattr(attention, 'w_msa')
        and all(isinstance(getattr(module, norm, None), nn.Module) for norm in ('norm1', 'norm2'))
        and isinstance(getattr(ffn, 'layers', None), nn.Sequential)
    )


def _is_patch_merging(module: nn.Module) -> bool:
    return isinstance(getattr(module, 'reduction', None), nn.Linear) and isinstance(
        getattr(module, 'norm', None), nn.LayerNorm
    )


def _sequential_inputs(sequence: nn.Sequential, prefix: str) -> dict[str, tuple[str, str | None, str | None]]:
    found: dict[str, tuple[str, str | None, str | None]] = {}
    children = list(sequence.named_children())
    for (before_name, before), (name, module) in zip(children, children[1:], strict=False):
        if not isinstance(module, nn.Linear):
            continue
        if isinstance(before, nn.LayerNorm) and before.bias is not None:
            found[prefix + name] = ('post_norm', prefix + before_name, None)
        elif isinstance(before, nn.GELU):
            found[prefix + name] = ('post_gelu', None, None)
    return found
