"""The words in which a network family is described: data about exact types, read by `structure` and `swap`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..matmul import QuantMatMul

# the same function under several names; a type or a tuple of types is what `needs` take
LAYER_NORM = ('torch.nn.modules.normalization.LayerNorm', 'timm.layers.norm.LayerNorm')
GELU = ('torch.nn.modules.activation.GELU', 'timm.layers.activations.GELU')
IDENTITY = 'torch.nn.modules.linear.Identity'
Types = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Input:
    """What the input of one layer of a part is.

    Attributes:
        role: see `structure.ROLES`.
        norm: path, within the part, of the LayerNorm whose output it is, if that output goes nowhere else than into
            the layers of this part that name it: it is folded into all of them together.
        windows: path of the module that pads and rearranges between that LayerNorm and the layer; its replacement
            has a buffer `pad_value`, (channels,), that it pads with.
        needs: path -> type (or several) that a module must have exactly for this to be true. Where it has not, the
            layer is an ordinary one.
    """

    role: str
    norm: str | None = None
    windows: str | None = None
    needs: Types = field(default_factory=dict)


@dataclass(frozen=True)
class Residual:
    """Where the output of a layer is added, as it is, to the stream that its sublayer began with.

    Attributes:
        norm: path of the LayerNorm that the stream goes into at the beginning of the sublayer.
        windows: path of the module that rearranges tokens between the two; its replacement has a method `arrange`.
        needs: path -> type (or several) that a module must have exactly for this to be true.
    """

    norm: str
    windows: str | None = None
    needs: Types = field(default_factory=dict)


@dataclass(frozen=True)
class Mixing:
    """Queries, keys and values that go into their products as they are, and mixed values that go on as they are.

    Then the coordinates of every head can be changed without changing the function.

    Attributes:
        takes: path of the layer that takes the mixed values, head by head.
        needs: path -> type (or several) that a module must have exactly for this to be true.
        without: paths at which there must be nothing for this to be true.
        heads: attribute that says how many there are.
    """

    takes: str
    needs: Types = field(default_factory=dict)
    without: tuple[str, ...] = ()
    heads: str = 'num_heads'


@dataclass(frozen=True)
class Part:
    """One type of module of a family. Paths are relative to the module; '' is the module itself.

    Attributes:
        type: qualified name; a module must be exactly of it (`recognition.is_exactly`).
        inputs: path of a layer -> what its input is.
        makes: path of a linear layer that only the replacement has -> what its input is. Parameters of the module are
            then quantized as those of these layers.
        products: name of a product of activations -> the roles of its two operands.
        residuals: path of the last layer of a sublayer -> where its output is added.
        qkv: path of the layer whose rows are queries, keys and values.
        mixing: what is known of their way to the next layer.
        blocks: paths of what block reconstruction treats as one.
        is_merging: whether its layers merge patches.
        needs: path -> type, as in `Input`, without which the module is none of this family.
        refuses: why a module has options for which the description does not hold, or None.
        replacement: (module, products by name) -> the module that takes its place, in which the products are
            quantized. It must compute the same and take over the children under their names.
    """

    type: str
    inputs: Mapping[str, Input] = field(default_factory=dict)
    makes: Mapping[str, Input] = field(default_factory=dict)
    products: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    residuals: Mapping[str, Residual] = field(default_factory=dict)
    qkv: str | None = None
    mixing: Mixing | None = None
    blocks: tuple[str, ...] = ()
    is_merging: bool = False
    needs: Types = field(default_factory=dict)
    refuses: Callable[[nn.Module], str | None] = lambda _: None
    replacement: Callable[[nn.Module, Mapping[str, QuantMatMul]], nn.Module] | None = None
