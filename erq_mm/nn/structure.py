"""Find what can be quantized in a model, and what each input is, from exact types and from what a forward really uses.

What is not understood is left float with a reason, or is an ordinary layer: nothing is taken for something else because
of its names.
"""

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from .architectures import Input, part_of
from .architectures.base import LAYER_NORM
from .hidden_units import HiddenUnits
from .layers import QuantizedModule, why_not_quantizable
from .recognition import is_exactly
from .usage import Usage, parameter_owners

SCOPES = ('linears', 'all')
ROLES = (
    'image', 'linear_input', 'post_norm', 'post_gelu', 'query', 'key', 'value', 'post_softmax', 'conv_input',
)  # fmt: skip
LAYER_TYPES = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
OUTSIDE_SCOPE = "convolution: outside scope 'linears'"
# evaluated without hooks they hand the weights of all their children to one kernel, so no observer can see it
FUSED = (nn.TransformerEncoderLayer,)


@dataclass(frozen=True)
class Site:
    """One product that can be quantized.

    Attributes:
        name: of the layer in the model; for a product of activations, the name it will have.
        kind: `linear`, `conv` or `matmul`.
        roles: of the input; of both operands for a matmul.
        norm: name of the LayerNorm whose output is the input, if any.
        windows: name of the module that pads between that LayerNorm, or that of `stream`, and the layer, if any.
        block: name of the block that reconstruction treats as one to which it belongs, if any.
        stream: name of the LayerNorm at the beginning of the sublayer that it ends, to whose input its output is added.
        is_merging: whether it merges patches.
        is_qkv: whether its output rows are the queries, keys and values of an attention.
        mixed_into: name of the layer that takes the mixed values, where queries, keys and values can be given other
            coordinates in every head.
        heads: how many there are, if so.
        units: what is behind its outputs, if they are hidden units.
        aliases: further names of the layer, of a module that stands in several places.
    """

    name: str
    kind: str
    roles: tuple[str, ...]
    norm: str | None = None
    windows: str | None = None
    block: str | None = None
    stream: str | None = None
    is_merging: bool = False
    is_qkv: bool = False
    mixed_into: str | None = None
    heads: int = 0
    units: HiddenUnits | None = None
    aliases: tuple[str, ...] = ()


FloatLayers = list[tuple[str, str]]


def find_sites(model: nn.Module, scope: str, usage: Usage | None = None) -> tuple[list[Site], FloatLayers]:
    """Return the sites of a scope in module order, and (name, reason) of layers that stay float.

    Args:
        model: any module.
        scope: `linears` (every Linear, known attention, the patch embedding) or `all` (also every Conv2d).
        usage: of a forward of the model, from `observe_usage`. With it, layers whose weights are used without a call of
            them stay float, and a LayerNorm is folded only if its output goes nowhere else.

    Raises:
        ValueError: unknown scope, or a model that is quantized already.
    """
    if scope not in SCOPES:
        raise ValueError(f'scope must be one of {SCOPES}, got {scope!r}')
    quantized = [name for name, module in model.named_modules() if isinstance(module, QuantizedModule)]
    if quantized:
        raise ValueError(
            f'the model is quantized already ({len(quantized)} layers, e.g. {quantized[0]}); '
            'quantize a freshly loaded float model instead'
        )
    return _Finder(model, scope, usage).find()


class _Finder:
    def __init__(self, model: nn.Module, scope: str, usage: Usage | None) -> None:
        self.scope, self.usage = scope, usage
        self.modules = dict(model.named_modules())
        self.shared_parameters = parameter_owners(model)
        self.aliases = _aliases(model)
        self.parents = Counter(child for module in self.modules.values() for child in module._modules.values())
        self.canonical = {module: name for name, module in self.modules.items()}
        self.inputs: dict[str, Input] = {}
        self.residuals: dict[str, tuple[str, str | None]] = {}
        self.blocks: set[str] = set()
        self.merging: set[str] = set()
        self.qkv: set[str] = set()
        self.mixed_into: dict[str, tuple[str, int]] = {}
        self.fused = {name: type(module).__name__ for name, module in self.modules.items() if isinstance(module, FUSED)}
        self.products: dict[str, Mapping[str, tuple[str, str]]] = {}
        self.made: dict[str, Mapping[str, Input]] = {}
        for name, module in self.modules.items():
            self._read(name, module)

    def find(self) -> tuple[list[Site], FloatLayers]:
        sites, left_float = [], []
        for name, module in self.modules.items():
            sites += [*self._product_sites(name), *self._made_sites(name)]
            if not isinstance(module, LAYER_TYPES) or self._is_made_anew(name):
                continue
            reason = self._why_float(name, module)
            if reason is None:
                sites.append(self._layer_site(name, module))
            else:
                left_float.append((name, reason))
        return sites, left_float

    def _read(self, name: str, module: nn.Module) -> None:
        """Take down what is known about the children of one module."""
        part = part_of(module)
        if part is None or (part.makes and not self._can_be_remade(name)):
            return
        if part.makes:
            self.made[name] = part.makes
        for path, given in part.inputs.items():
            layer = self._below(module, path)
            if layer in self.inputs:  # a layer that stands in two places is in neither what it seems to be
                self.inputs[layer] = Input('linear_input')
            else:
                beside = [other for other, its in part.inputs.items() if its.norm == given.norm]
                self.inputs[layer] = self._absolute(module, given, [self._below(module, other) for other in beside])
            if part.is_merging:
                self.merging.add(layer)
        for path, given in part.residuals.items():
            windows = None if given.windows is None else self._below(module, given.windows)
            self.residuals[self._below(module, path)] = self._below(module, given.norm), windows
        self.blocks |= {self._below(module, path) for path in part.blocks}
        if part.qkv is not None:
            self.qkv.add(self._below(module, part.qkv))
            if part.mixing is not None:
                takes, heads = self._below(module, part.mixing.takes), getattr(module, part.mixing.heads)
                self.mixed_into[self._below(module, part.qkv)] = takes, heads
        if part.products and name:
            self.products[name] = part.products

    def _below(self, module: nn.Module, path: str) -> str:
        return self.canonical[module.get_submodule(path)]

    def _absolute(self, module: nn.Module, given: Input, layers: list[str]) -> Input:
        """Return an input with names in the model; without its LayerNorm where that cannot be folded into `layers`."""
        if given.norm is None:
            return Input(given.role)
        norm = self._below(module, given.norm)
        windows = None if given.windows is None else self._below(module, given.windows)
        if windows == '' or not self._can_fold(norm, layers, windows):  # the model itself cannot be replaced
            return Input(given.role)
        return Input(given.role, norm, windows)

    def _can_fold(self, norm: str, layers: list[str], windows: str | None) -> bool:
        """Whether nothing but `layers` depends on the LayerNorm's output, and nothing else on their parameters."""
        module = self.modules[norm]
        if not is_exactly(module, LAYER_NORM) or module.bias is None:
            return False
        if any(self.parents[self.modules[name]] > 1 or self._sharers(name) for name in (norm, *layers)):
            return False
        if len(layers) > 1 and any(self._why_float(name, self.modules[name]) for name in layers):
            return False  # one that stays as it is would see the change that the others undo
        if self.usage is None or norm not in self.usage.consumers:
            return True
        between = layers if windows is None else [*layers, windows]
        consumers = self.usage.consumers[norm]
        return all(any(user == name or user.startswith(f'{name}.') for name in between) for user in consumers)

    def _sharers(self, layer: str) -> list[str]:
        """Return the parameters elsewhere that share memory with those of a layer."""
        own = [f'{layer}.{child}' if layer else child for child in self.modules[layer]._parameters]
        return sorted({other for name in own for other in self.shared_parameters.get(name, ())})

    def _why_float(self, name: str, module: nn.Module) -> str | None:
        reason = why_not_quantizable(module)
        if reason is not None:
            return reason
        role = self.inputs[name].role if name in self.inputs else None
        if self.scope == 'linears' and isinstance(module, nn.Conv2d) and role != 'image':
            return OUTSIDE_SCOPE
        fused = _enclosing(name, self.fused)
        if fused is not None:
            return f'{fused} ({self.fused[fused]}) hands its weights to a fused kernel without a call of the layer'
        sharers = self._sharers(name)
        if sharers:
            return f'shares its weights with {", ".join(sharers)}: one grid and one correction cannot serve both'
        users = [] if self.usage is None else self.usage.foreign_users(name)
        if users:
            kinds = ', '.join(f'{user or "the model"} ({type(self.modules[user]).__name__})' for user in users)
            return f'its weights are used without a call of the layer, by {kinds}'
        return None

    def _layer_site(self, name: str, module: nn.Module) -> Site:
        kind = 'linear' if isinstance(module, nn.Linear) else 'conv'
        given = self.inputs.get(name, Input(f'{kind}_input'))
        stream, windows = self.residuals.get(name, (None, given.windows))
        return Site(
            name, kind, (given.role,), given.norm, windows, _enclosing(name, self.blocks), stream,
            name in self.merging, name in self.qkv, *self.mixed_into.get(name, (None, 0)),
            None if self.usage is None else self.usage.hidden_units.get(name), tuple(self.aliases.get(name, ())),
        )  # fmt: skip

    def _product_sites(self, name: str) -> Iterator[Site]:
        for product, roles in self.products.get(name, {}).items():
            yield Site(f'{name}.{product}', 'matmul', roles, block=_enclosing(name, self.blocks))

    def _made_sites(self, name: str) -> Iterator[Site]:
        for path, given in self.made.get(name, {}).items():
            yield Site(f'{name}.{path}', 'linear', (given.role,), block=_enclosing(name, self.blocks))

    def _is_made_anew(self, name: str) -> bool:
        parent, _, child = name.rpartition('.')
        return child in self.made.get(parent, {})

    def _can_be_remade(self, name: str) -> bool:
        """Whether only the module's own code uses its parameters and its children's, and no others share them."""
        inside = [n for n in self.modules if n == name or n.startswith(f'{name}.')]
        if not name or _enclosing(name, self.fused) or any(self._sharers(part) for part in inside):
            return False
        users = set() if self.usage is None else {u for part in inside for u in self.usage.foreign_users(part)}
        return not users - set(inside)


def _enclosing(name: str, found: Container[str]) -> str | None:
    """Return the innermost of `found` that is a module or contains it."""
    while name:
        if name in found:
            return name
        name = name.rpartition('.')[0]
    return None


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Return first name -> further names of every module that stands in several places."""
    first: dict[nn.Module, str] = {}
    further: dict[str, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module in first:
            further.setdefault(first[module], []).append(name)
        else:
            first[module] = name
    return further
