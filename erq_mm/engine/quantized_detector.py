"""`QuantizedDetector`: a model of a config that becomes the quantized one when its saved file is loaded."""

import json
from collections.abc import Mapping
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from ..export.checkpoint import rebuild_
from ..export.record import Record
from .saved_checkpoints import RECORD_KEY, as_checkpoint, without_refusals


@MODELS.register_module(name='QuantizedDetector')
def build_quantized_detector(detector: Any, checkpoint: str | None = None, **settings: Any) -> nn.Module:
    """Build a detector whose weights come from a file of `tools/quantize.py`.

    The result is the detector itself, of its own class and with its own names; loading the file swaps the layers. So
    whatever loads a checkpoint (`Runner`, `init_detector`, `DetInferencer`) gives the quantized model. In a config:

        _base_ = 'mask-rcnn_swin-t.py'
        custom_imports = dict(imports=['erq_mm.engine'], allow_failed_imports=False)
        model = dict(type='QuantizedDetector', detector='MaskRCNN')

    A classifier is one in the same way: `detector='TimmImageClassifier'`.

    Args:
        detector: its type, a registered name or a class; an own key, as `type` is taken.
        checkpoint: load this file at once; for callers that load none.
        settings: the other fields of the detector's config.

    Raises:
        ValueError: as `export.checkpoint.rebuild_` when the file is loaded; a float checkpoint.
        RuntimeError: a forward before the file is loaded.
    """
    model = MODELS.build(dict(type=detector, **settings))
    _await_file(model)
    if checkpoint is not None:
        model.load_state_dict(as_checkpoint(checkpoint)['state_dict'])
    return model


def is_quantized_detector(config: Mapping[str, Any]) -> bool:
    """Whether the config of a model is that of a `QuantizedDetector`."""
    return config.get('type') in ('QuantizedDetector', build_quantized_detector)


def _await_file(model: nn.Module) -> None:
    """Give a detector two hooks until its file is loaded: one swaps its layers, one keeps it from being used.

    They are functions of the module, so that a copy of the detector waits for the file as well.
    """
    model._register_load_state_dict_pre_hook(_before_load, with_module=True)
    model.register_forward_pre_hook(_refuse_forward)


def _before_load(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_others: Any) -> None:
    waiting = [key for key, hook in model._forward_pre_hooks.items() if hook is _refuse_forward]
    if waiting:
        install_from_state_(model, state_dict, prefix)
    for key in waiting:
        del model._forward_pre_hooks[key]


def install_from_state_(model: nn.Module, state_dict: dict[str, Any], prefix: str = '') -> None:
    """Swap the layers of a float model as the state dict of a saved one says, and put the unpacked tensors into it.

    Raises:
        ValueError: a float checkpoint, or one that does not fit; naming its file.
    """
    key = prefix + RECORD_KEY
    if key not in state_dict:
        raise ValueError(
            f'a QuantizedDetector is loaded from a file of tools/quantize.py, and this checkpoint is float '
            f'({len(state_dict)} entries): quantize it first, or build the float detector'
        )
    content = json.loads(bytes(state_dict.pop(key).tolist()))
    own = {name: value for name, value in state_dict.items() if name.startswith(prefix)}
    tensors = {name.removeprefix(prefix): value for name, value in without_refusals(own).items()}
    try:
        state = rebuild_(model, Record.from_json(content['record']), tensors)
    except ValueError as error:
        raise ValueError(f'{content["path"]} cannot be loaded: {error}') from error
    for name in own:
        del state_dict[name]
    state_dict.update({prefix + name: value for name, value in state.items()})


def _refuse_forward(model: nn.Module, _args: tuple) -> None:
    raise RuntimeError(
        f'this QuantizedDetector ({type(model).__name__}) has no weights: load its file, or name it with '
        '`checkpoint=` in the config'
    )
