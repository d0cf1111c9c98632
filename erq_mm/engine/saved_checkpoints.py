"""Saved quantized models as mmengine's loader hands them on: a state dict that only a `QuantizedDetector` can take."""

import json
import os.path
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..export.container import MARK, is_ours, read
from ..export.record import Record

RECORD_KEY = 'erq_mm_record'  # the record travels in the state dict: nothing else gets through mmengine


class QuantizedWeight:
    """Stands where a float model looks for a weight, and says what to do instead."""

    def __init__(self, path: str) -> None:
        self.path = path

    @classmethod
    def __torch_function__(cls, *_args: Any, **_keywords: Any) -> Any:
        raise ValueError('a quantized model was to be loaded into a float one')

    @property
    def shape(self) -> torch.Size:
        raise ValueError(
            f"{self.path} is a quantized model, the model of the config is float: write model=dict(type='Quantized"
            "Detector', detector=<its type>) in the config, or use erq_mm.load_quantized or tools/test.py"
        )


def as_checkpoint(path: str) -> dict[str, Any]:
    """Return a saved model as a checkpoint of mmengine.

    Raises:
        ValueError, FileNotFoundError: as `export.container.read`.
    """
    contents = read(path)
    try:
        record = Record.from_json(contents.texts[MARK])
    except ValueError as error:
        raise ValueError(f'{path} cannot be loaded: {error}') from error
    state: OrderedDict[str, Any] = OrderedDict(contents.tensors)
    state |= {f'{name}.weight': QuantizedWeight(path) for name, layer in record.layers.items() if layer.is_fitted}
    text = json.dumps({'path': str(path), 'record': contents.texts[MARK]}).encode()
    state[RECORD_KEY] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    state._metadata = OrderedDict({name: {'version': version} for name, version in record.module_versions.items()})
    return {'state_dict': state, 'meta': {'dataset_meta': record.dataset_meta, 'quantization': record.report}}


def without_refusals(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors alone."""
    return {name: value for name, value in state.items() if not isinstance(value, QuantizedWeight)}


def is_quantized(state: Mapping[str, Any]) -> bool:
    """Whether a state dict is that of a saved quantized model."""
    return RECORD_KEY in state


def _float_safetensors(path: str) -> dict[str, Any]:
    try:
        return {'state_dict': load_file(path)}
    except SafetensorError as error:
        raise ValueError(f'{path} cannot be loaded: it is truncated, or no file of safetensors ({error})') from error


def register_loader() -> None:
    """Let mmengine load saved quantized models, and any .safetensors, from local paths; others go where they went."""
    load_float = CheckpointLoader._get_checkpoint_loader('')

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        path = os.path.expanduser(str(filename))
        if is_ours(path):
            return as_checkpoint(path)
        if Path(path).suffix == '.safetensors' and os.path.isfile(path):
            return _float_safetensors(path)
        return load_float(filename, map_location)

    load_from_local.is_of_erq_mm = True
    if not getattr(load_float, 'is_of_erq_mm', False):
        CheckpointLoader.register_scheme('', load_from_local, force=True)
