"""Loading checkpoints: which pickled types are safe, and whether a checkpoint fits the layers to be quantized."""

from collections.abc import Mapping

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ..nn.layers import QuantLayer
from ..nn.structure import find_sites
from ..wording import first_of
from .saved_checkpoints import is_quantized

LISTED = 8  # keys in an error
QUANTIZER_KEY = 'input_quantizer.scale'


def allow_training_checkpoints() -> None:
    """Let `torch.load` accept mmengine's own training checkpoints with its safety check on (the default since 2.6).

    They carry logged scalars as `HistoryBuffer`: arrays of numbers, and the names of its own statistics, which pickle
    spells as `getattr(HistoryBuffer, name)`. Exactly these types, and that one form of getattr, are allowed.
    """
    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    reconstruct = np.zeros(1).__reduce__()[0]  # numpy._core.multiarray._reconstruct, wherever this numpy keeps it
    scalar = np.float64(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'int32', 'bool')]
    torch.serialization.add_safe_globals(
        [HistoryBuffer, reconstruct, scalar, np.ndarray, np.dtype, *dtypes, (_history_statistic, 'builtins.getattr')]
    )


def _history_statistic(owner: object, name: str) -> object:
    """Stand in for getattr while a checkpoint is loaded."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise ValueError(f'the checkpoint asks for attribute {name!r} of {owner!r}, which no mmengine checkpoint needs')
    return getattr(owner, name)


@HOOKS.register_module()
class CheckpointGuardHook(Hook):
    """Refuse a quantized checkpoint for a float model, where mmengine would only log unexpected keys."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = checkpoint.get('state_dict', checkpoint)
        if is_quantized(state):
            return  # a float model refuses it by itself
        quantized = [key for key in state if key.endswith(QUANTIZER_KEY)]
        if quantized and not any(isinstance(module, QuantLayer) for module in runner.model.modules()):
            raise ValueError(
                f'the checkpoint is quantized ({len(quantized)} layers, e.g. {quantized[0]}) and the model is float: '
                'its activations would not be quantized. Give the float checkpoint, and quantize with --recipe'
            )


def check_float_checkpoint(model: nn.Module, checkpoint: Mapping[str, object], scope: str) -> None:
    """Raise unless the checkpoint holds exactly the float weights of every layer that will be quantized.

    Args:
        model: the float model the checkpoint is about to be loaded into.
        checkpoint: as loaded, with or without `state_dict`.
        scope: of the quantization.

    Raises:
        ValueError: a quantized checkpoint, or missing, unexpected or wrongly shaped keys in those layers, listed.
    """
    state: Mapping[str, Tensor] = checkpoint.get('state_dict', checkpoint)
    quantized = [key for key in state if key.endswith(('.weight_packed', QUANTIZER_KEY))]
    if quantized:
        raise ValueError(
            f'the checkpoint is quantized already ({len(quantized)} layers, e.g. {quantized[0]}); '
            'give the float checkpoint to be quantized'
        )
    state = _as_loaded(model, state)
    sites, _ = find_sites(model, scope)
    layers = {site.name for site in sites} | {site.norm for site in sites if site.norm}
    expected = {k: v for k, v in model.state_dict().items() if k.rpartition('.')[0] in layers}
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key.rpartition('.')[0] in layers and key not in expected]
    misshapen = [
        f'{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}'
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [('missing', missing), ('unexpected', unexpected), ('of another shape', misshapen)]
    if any(keys for _, keys in problems):
        listed = '; '.join(f'{len(keys)} {what}: {first_of(keys, LISTED)}' for what, keys in problems if keys)
        raise ValueError(
            f'the checkpoint does not fit the layers to be quantized ({listed}). Use the config it was trained with; '
            'checkpoints of the Swin release are converted by tools/convert_swin.py'
        )


def _as_loaded(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Load `state`, as mmengine is about to, and return it under the names that the modules gave its entries.

    A semi-supervised detector takes the weights of a plain one for both of its halves, heads rename those of old
    versions: only their own `_load_from_state_dict` knows.
    """
    renamed = {key.removeprefix('module.'): value for key, value in state.items()}
    metadata = getattr(state, '_metadata', {})
    ignored: list[str] = []

    def load(module: nn.Module, prefix: str) -> None:
        local = metadata.get(prefix[:-1], {})
        module._load_from_state_dict(renamed, prefix, local, False, ignored, ignored, ignored)
        for name, child in module._modules.items():
            if child is not None:
                load(child, f'{prefix}{name}.')

    load(model, '')
    return renamed
