"""A quantized model as one file, and the same model, bit for bit, out of a float one of the same architecture."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..calibration.report import Report
from ..nn.layers import QuantLayer
from ..nn.swap import restored_on_error, swap_
from ..wording import first_of
from .container import MARK, Contents, read, write
from .layers import QUANTIZER, State, pack_input, pack_weight, packed_keys, unpack_input, unpack_weight
from .record import LayerRecord, Record
from .scheme import scheme_of
from .sizes import SizeTable, size_table

LISTED = 5


def save_quantized(
    model: nn.Module,
    path: str | Path,
    report: Report | None = None,
    config: Mapping[str, Any] | None = None,
    dataset_meta: Mapping[str, Any] | None = None,
) -> SizeTable:
    """Write a quantized model to one file, whole or not at all, and return what everything in it takes.

    Codes are packed at their bit-width, in the layout `pack-quantized` of compressed-tensors; see
    `docs/saved_models.md`.

    Args:
        model: quantized and unchanged since.
        path: `.safetensors`, or `.pth` for tools that know `torch.load` alone.
        report: of its calibration, kept with it.
        config: of the detector, plain values; without it `load_quantized` needs the float model.
        dataset_meta: class names and palette.

    Raises:
        ValueError: a float model, weights that were changed after quantization, another suffix, a model whose
            `state_dict` renames its layers.
    """
    origin = {
        'report': report.to_dict() if report else {},
        'config': dict(config) if config is not None else None,
        'dataset_meta': dict(dataset_meta or {}),
    }
    record = Record.of(model, **origin)
    contents = to_contents(model, record)
    size = write(path, contents)
    return size_table(record, contents.tensors, size)


def to_contents(model: nn.Module, record: Record) -> Contents:
    """Return what a file of the model holds."""
    state = dict(first_names(model))
    for name, layer in model.named_modules():
        if isinstance(layer, QuantLayer):
            own = {key: state.pop(f'{name}.{key}') for key in _own_keys(layer) if f'{name}.{key}' in state}
            if not own:
                raise ValueError(
                    f'{type(model).__name__} gives the tensors of {name} other names (a hook of its state_dict), by '
                    'which they cannot be saved; models of timm: TimmImageClassifier in the place of TimmClassifier'
                )
            state |= {f'{name}.{key}': value for key, value in _pack(name, layer, own).items()}
    texts = {MARK: record.to_json(), 'quantization_config': json.dumps(scheme_of(record, state)), 'format': 'pt'}
    return Contents(state, texts)


def load_into_(model: nn.Module, path: str | Path) -> Record:
    """Make a float model the quantized one of a file; if it does not fit the model stays float.

    Args:
        model: of the architecture that was quantized; its weights do not matter.

    Raises:
        ValueError: a file that is damaged or does not fit the model, naming both and the first differences.
    """
    record, tensors = load_record(path)
    try:
        with restored_on_error(model):
            model.load_state_dict(rebuild_(model, record, tensors))
    except ValueError as error:
        raise ValueError(f'{path} cannot be loaded: {error}') from error
    return record


def load_record(path: str | Path) -> tuple[Record, State]:
    """Return what a file says about the model, and its tensors as they are packed.

    Raises:
        FileNotFoundError, ValueError: as `container.read`; a newer format, or a malformed record.
    """
    contents = read(path)
    try:
        return Record.from_json(contents.texts[MARK]), contents.tensors
    except ValueError as error:
        raise ValueError(f'{path} cannot be loaded: {error}') from error


def rebuild_(model: nn.Module, record: Record, tensors: Mapping[str, Tensor]) -> State:
    """Swap the layers of a float model as the record says and return the state dict to be loaded into it.

    Raises:
        ValueError: the record or the tensors do not fit the model, which is float as before then.
    """
    with restored_on_error(model):
        _check_layers(model, record)
        sites = record.sites()
        weights = {name: layer.weight for name, layer in record.layers.items()}
        inputs = {name: (layer.input,) for name, layer in record.layers.items()} | record.products
        try:
            swap_(model, sites, weights, inputs)
        except KeyError as error:
            raise ValueError(f'the model cannot have the quantized product or layer {error} of the file') from error
        state = _unpack(record, tensors)
        _check_state(model, state, record)
        model.eval()
        return _under_all_names(model, state)


def first_names(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield what `state_dict` has, every tensor once, under the first of its names."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def _under_all_names(model: nn.Module, state: State) -> State:
    tensors = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    return {name: state[first[id(tensor)]] for name, tensor in tensors.items()}


def _own_keys(layer: QuantLayer) -> list[str]:
    return [key for key in layer.state_dict() if key != 'bias']


def _pack(name: str, layer: QuantLayer, state: State) -> State:
    quantizer = layer.input_quantizer
    inputs = {key: value for key, value in state.items() if key.startswith(QUANTIZER)}
    packed = pack_input(inputs, quantizer.spec.bits, quantizer.spec.grid)
    if layer.has_quantized_weight:
        return packed | pack_weight(name, layer)
    return packed | {key: value for key, value in state.items() if key not in inputs}


def _unpack(record: Record, tensors: Mapping[str, Tensor]) -> State:
    state = dict(tensors)
    for name, layer in record.layers.items():
        prefix = f'{name}.'
        inside = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        lacking = sorted(packed_keys(layer) - inside)
        if lacking:
            raise ValueError(f'{name} lacks {lacking}')
        weight = {key: state.pop(prefix + key) for key in packed_keys(layer)}
        inputs = {key: state.pop(prefix + key) for key in inside if key.startswith(('input_', QUANTIZER))}
        try:
            found = unpack_input(inputs, layer.input.bits) | (unpack_weight(layer, weight) if weight else {})
        except (ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f'{name}: {error}') from error
        state |= {prefix + key: value for key, value in found.items()}
    return state


def _check_layers(model: nn.Module, record: Record) -> None:
    """Raise ValueError unless every layer of the record can be made of a float layer of the model."""
    if any(isinstance(module, QuantLayer) for module in model.modules()):
        raise ValueError('the model is quantized already: build a float one')
    modules = dict(model.named_modules())
    wrong = [f'{name}: {why}' for name, layer in record.layers.items() if (why := _why_other(modules.get(name), layer))]
    # what attention is made of has no counterpart of its own in the float model
    wrong = [line for line in wrong if not line.endswith('is not there') or not _is_made(line.split(':')[0], modules)]
    if wrong:
        classes = len(record.dataset_meta.get('classes', ()))
        known = f' (it was saved with {classes} classes)' if classes else ''
        raise ValueError(f'{len(wrong)} layers are not those of the model{known}: {first_of(wrong, LISTED)}')


def _why_other(module: nn.Module | None, layer: LayerRecord) -> str | None:
    if module is None:
        return 'is not there'
    shape = tuple(getattr(module, 'weight', ()).shape) if hasattr(module, 'weight') else ()
    kind = {nn.Linear: 'linear', nn.Conv2d: 'conv'}
    found = next((name for base, name in kind.items() if isinstance(module, base)), type(module).__name__)
    if found != layer.kind or shape != layer.shape:
        return f'{found} {shape} in the model, {layer.kind} {layer.shape} in the file'
    return None


def _is_made(name: str, modules: Mapping[str, nn.Module]) -> bool:
    return isinstance(modules.get(name.rpartition('.')[0]), nn.MultiheadAttention)


def _check_state(model: nn.Module, state: Mapping[str, Tensor], record: Record) -> None:
    expected = dict(first_names(model))
    missing = [name for name in expected if name not in state]
    unexpected = sorted(name for name in state if name not in expected)  # a file's tensors come in any order
    other = [
        f'{name} {_look(state[name])} instead of {_look(tensor)}'
        for name, tensor in expected.items()
        if name in state and _look(state[name]) != _look(tensor)
    ]
    problems = [('missing', missing), ('unexpected', unexpected), ('of another shape or type', other)]
    listed = '; '.join(f'{len(names)} {what}: {first_of(names, LISTED)}' for what, names in problems if names)
    if listed:
        classes = len(record.dataset_meta.get('classes', ()))
        raise ValueError(
            f'the tensors are not those of the model ({listed})'
            + (f'; it was saved with {classes} classes' if classes else '')
        )


def _look(tensor: Tensor) -> str:
    return f'{str(tensor.dtype).removeprefix("torch.")} {tuple(tensor.shape)}'
