"""What a saved model says about itself: which modules are quantized how, and where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from ..core.spec import QuantSpec
from ..nn.layers import QuantLayer, QuantLinear
from ..nn.matmul import QuantMatMul
from ..nn.structure import Site

FORMAT = 1
KINDS = ('linear', 'conv')


@dataclass(frozen=True)
class LayerRecord:
    """One quantized layer.

    Attributes:
        kind: `linear` or `conv`.
        shape: of the weight.
        weight, input: the specs of its two quantizers.
        has_bias: whether there is one.
        is_fitted: whether the weight lies on its grid; if not it is saved as float.
    """

    kind: str
    shape: tuple[int, ...]
    weight: QuantSpec
    input: QuantSpec
    has_bias: bool
    is_fitted: bool


@dataclass(frozen=True)
class Record:
    """The entry `erq_mm` of a saved model.

    Attributes:
        layers: by module name.
        products: of two activations: the specs of both operands, by module name.
        report: that of the calibration (`quantization.json`): recipe and options, bits, image ids, versions, errors.
        config: of the detector, plain values; None for a bare module.
        dataset_meta: class names and palette.
        module_versions: what `state_dict` says about modules whose layout has a version.
    """

    layers: dict[str, LayerRecord]
    products: dict[str, tuple[QuantSpec, QuantSpec]]
    report: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    dataset_meta: dict[str, Any] = field(default_factory=dict)
    module_versions: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, **origin: Any) -> 'Record':
        """Return the record of a quantized model; `origin` are the further attributes.

        Raises:
            ValueError: the model is float.
        """
        layers = {n: _layer_record(m) for n, m in model.named_modules() if isinstance(m, QuantLayer)}
        products = {
            name: (module.left_quantizer.spec, module.right_quantizer.spec)
            for name, module in model.named_modules()
            if isinstance(module, QuantMatMul)
        }
        if not layers:
            raise ValueError(
                f'{type(model).__name__} is float: quantize it first (erq_mm.quantize_, or ERQHook in a Runner)'
            )
        versions = {
            name: data['version']
            for name, data in getattr(model.state_dict(), '_metadata', {}).items()
            if data.get('version') not in (None, 1)
        }
        return cls(layers, products, module_versions=versions, **origin)

    def sites(self) -> list[Site]:
        """Return what `swap_` needs to build the same modules from the float model."""
        layers = [
            # a LayerNorm in front is what makes `swap_` create a bias
            Site(name, layer.kind, ('linear_input',), norm=name if layer.has_bias else None)
            for name, layer in self.layers.items()
        ]
        return layers + [Site(name, 'matmul', ('query', 'key')) for name in self.products]

    def to_json(self) -> str:
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        content['layers'] = {name: asdict(layer) for name, layer in self.layers.items()}
        content['products'] = {name: [asdict(spec) for spec in specs] for name, specs in self.products.items()}
        return json.dumps({'format': FORMAT} | content, allow_nan=True)

    @classmethod
    def from_json(cls, text: str) -> 'Record':
        """Return the record that a text spells.

        Raises:
            ValueError: a newer format, or not what `to_json` writes.
        """
        try:
            content = json.loads(text)
            found = content.pop('format')
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
            raise ValueError(f'its record cannot be read ({type(error).__name__}: {error})') from error
        if found != FORMAT:
            raise ValueError(
                f'it has format {found!r} and this version of erq_mm reads {FORMAT}: update erq_mm, or save the model '
                'again with this version'
            )
        try:
            layers = {str(name): _parse_layer(layer) for name, layer in content.pop('layers').items()}
            products = {str(n): tuple(_parse_spec(s) for s in specs) for n, specs in content.pop('products').items()}
            record = cls(layers, products, **content)
            if not all(len(specs) == 2 for specs in products.values()):
                raise ValueError('a product has two operands')
            for value in (record.report, record.dataset_meta, record.module_versions, record.config or {}):
                if not isinstance(value, dict):
                    raise TypeError(f'expected a dictionary, got {type(value).__name__}')
            return record
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError(f'its record is malformed ({type(error).__name__}: {error})') from error


def _layer_record(layer: QuantLayer) -> LayerRecord:
    return LayerRecord(
        kind='linear' if isinstance(layer, QuantLinear) else 'conv',
        shape=tuple(layer.weight.shape),
        weight=layer.weight_spec,
        input=layer.input_quantizer.spec,
        has_bias=layer.bias is not None,
        is_fitted=layer.has_quantized_weight,
    )


def _parse_layer(content: Mapping[str, Any]) -> LayerRecord:
    values = dict(content)
    specs = {key: _parse_spec(values.pop(key)) for key in ('weight', 'input')}
    shape = values.pop('shape')
    layer = LayerRecord(**values, **specs, shape=tuple(shape))
    if layer.kind not in KINDS or len(shape) != (2 if layer.kind == 'linear' else 4):
        raise ValueError(f'kind {layer.kind!r} with a weight of shape {shape}')
    if not all(type(size) is int and 0 < size < 2**31 for size in shape):
        raise ValueError(f'shape {shape} is none of a weight')
    if not isinstance(layer.has_bias, bool) or not isinstance(layer.is_fitted, bool):
        raise TypeError('has_bias and is_fitted are true or false')
    return layer


def _parse_spec(content: Mapping[str, Any]) -> QuantSpec:
    return QuantSpec(**content)
