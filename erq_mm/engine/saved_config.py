"""A detector's config as plain values in a file, and a detector built of them without running what a file says.

A config may name anything that Python can import, and mmengine imports it. A file that comes from elsewhere may not:
its types must be in the registries already, and nothing is fetched.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import mmengine.registry
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, Registry, init_default_scope
from torch import nn

from .model_kinds import kind_of_config

TUPLE = '__tuple__'
FETCHED = ('init_cfg', 'pretrained')  # weights that the saved ones replace
OURS = ('ERQHook', 'BackendHook')


def to_plain(config: Config) -> dict[str, Any]:
    """Return a config as JSON values: classes by name, tuples marked, without hooks of this package.

    Raises:
        ValueError: naming an entry of the model that cannot be written down.
    """
    content = {key: value for key, value in config._cfg_dict.to_dict().items() if key != 'custom_hooks'}
    hooks = content.get('default_hooks') or {}
    content['default_hooks'] = {k: v for k, v in hooks.items() if (v or {}).get('type') not in OURS}
    plain = {key: _encode(value, key) for key, value in content.items()}
    return json.loads(json.dumps(plain))


def from_plain(content: Mapping[str, Any]) -> Config:
    """Return the config; nothing it names is imported."""
    return Config({key: _decode(value) for key, value in content.items()})


def build_saved_detector(config: Config) -> nn.Module:
    """Return the float detector of a saved config, with random weights.

    Raises:
        ValueError: a type that is in no registry.
        ImportError: the kind of model needs packages that are not installed.
    """
    kind = kind_of_config(config)  # of a closed list, whose packages register what it may name
    model = copy.deepcopy(config.model)
    _check_and_strip(model, known_types(), 'model')
    init_default_scope(kind.scope)
    return MODELS.build(model)


def known_types() -> dict[str, Any]:
    """Return everything that is registered, by name, by scope and name, and by the full name of a class."""
    import mmcv.ops
    import mmdet.models  # noqa: F401

    # mmdet looks up RoI layers and kinds of NMS there, without a registry (and evaluates whatever text it finds)
    found: dict[str, Any] = {name: name for name, kind in vars(mmcv.ops).items() if callable(kind)}
    for registry in _registries():
        for name, kind in registry.module_dict.items():
            full = f'{getattr(kind, "__module__", "")}.{getattr(kind, "__qualname__", name)}'
            found |= {name: name, f'{registry.scope}.{name}': f'{registry.scope}.{name}', full: kind}
    return found


def _registries() -> Iterator[Registry]:
    waiting = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]
    while waiting:
        registry = waiting.pop()
        yield registry
        waiting.extend(registry.children.values())


def _check_and_strip(value: Any, known: Mapping[str, Any], place: str) -> None:
    if isinstance(value, dict):
        for key in FETCHED:
            value.pop(key, None)
        kind = value.get('type')
        if isinstance(kind, str) and kind not in known:
            raise ValueError(
                f'its config has {place}.type = {kind!r}, which no registry knows: import the package that registers '
                'it before loading (what a file asks for is not imported)'
            )
        if isinstance(kind, str):
            value['type'] = known[kind]
        for key, item in value.items():
            _check_and_strip(item, known, f'{place}.{key}')
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _check_and_strip(item, known, f'{place}[{index}]')


def _encode(value: Any, place: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _encode(item, f'{place}.{key}') for key, item in value.items()}
    if isinstance(value, tuple):
        return {TUPLE: [_encode(item, place) for item in value]}
    if isinstance(value, (list, set)):
        return [_encode(item, f'{place}[{index}]') for index, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, type) or callable(value):
        return f'{value.__module__}.{value.__qualname__}'
    if place.split('.')[0] == 'model':
        raise ValueError(f'{place} of the config is {value!r}, which cannot be saved with the model')
    return repr(value)


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {TUPLE}:
            return tuple(_decode(item) for item in value[TUPLE])
        return ConfigDict({key: _decode(item) for key, item in value.items()})
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value
