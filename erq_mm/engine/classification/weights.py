"""Weights of timm classifiers from any file: timm's, those of the papers' releases, mmengine's, our saved models."""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from timm.models import clean_state_dict
from torch import nn

from ...wording import first_of
from ..saved_checkpoints import is_quantized

NESTED = ('state_dict_ema', 'model_ema', 'state_dict', 'model')  # where checkpoints keep the weights, in timm's order
INNER = 'model.'  # the name of timm's model in the classifier
LISTED = 4


def fit_state_(classifier: nn.Module, state_dict: dict[str, Any], prefix: str, *_others: Any) -> None:
    """Give a state dict the names of the classifier; as a hook before it is loaded.

    Accepted are names with and without `model.`, the dictionaries around the weights of timm's and of the papers'
    releases, and their layouts as far as timm converts them itself (`checkpoint_filter_fn` of the model's file).

    Raises:
        ValueError: the weights are those of another model, or for another number of classes.
    """
    own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    if is_quantized(own):
        return  # `QuantizedDetector` takes it, a float model refuses it by itself
    network = classifier.model
    found = _matched(network, _plain_names(network, _unpacked(own)))
    _check(network, found)
    for key in list(state_dict):
        if key.startswith(prefix):
            del state_dict[key]
    state_dict.update({f'{prefix}{INNER}{key}': value for key, value in found.items()})


def _unpacked(state: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = next((state[key] for key in NESTED if isinstance(state.get(key), Mapping)), None)
    return clean_state_dict(dict(state if inner is None else inner))


def _plain_names(network: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    expected = network.state_dict(keep_vars=True)
    return {key if key in expected else key.removeprefix(INNER): value for key, value in state.items()}


def _matched(network: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state as it is if it fits, else as timm converts it, if it can."""
    convert = getattr(sys.modules[type(network).__module__], 'checkpoint_filter_fn', None)
    if convert is None or not any(_differences(network, state)):
        return state
    try:
        return dict(convert(OrderedDict(state), network))
    except Exception:  # whatever a converter makes of another model's weights: the caller says what is wrong with them
        return state


def _differences(network: nn.Module, state: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """Return the names of tensors that are missing, unexpected, and of another shape."""
    expected = network.state_dict(keep_vars=True)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    both = (key for key in expected if key in state)
    return missing, unexpected, [key for key in both if _shape(state[key]) != _shape(expected[key])]


def _check(network: nn.Module, state: Mapping[str, Any]) -> None:
    missing, unexpected, misshapen = _differences(network, state)
    heads = _classifier_names(network)
    if misshapen and not missing and not unexpected and all(key.rpartition('.')[0] in heads for key in misshapen):
        classes = _shape(state[misshapen[0]])[0]
        raise ValueError(
            f'the checkpoint has {classes} classes ({misshapen[0]} {_shape(state[misshapen[0]])}) and the model is '
            f'built for {network.num_classes}: set model.num_classes={classes} in the config, or give a checkpoint '
            f'with {network.num_classes}'
        )
    expected = network.state_dict(keep_vars=True)
    shapes = [f'{key} {_shape(state[key])} instead of {_shape(expected[key])}' for key in misshapen]
    problems = [('missing', missing), ('unexpected', unexpected), ('of another shape', shapes)]
    listed = '; '.join(f'{len(keys)} {what}: {first_of(keys, LISTED)}' for what, keys in problems if keys)
    if listed:
        name = (getattr(network, 'pretrained_cfg', None) or {}).get('architecture', type(network).__name__)
        raise ValueError(
            f'the checkpoint is not one of {name} as the config builds it ({len(expected)} tensors; {listed}): give '
            "that model's checkpoint, or set model.model_name and its options to what was trained"
        )


def _classifier_names(network: nn.Module) -> list[str]:
    names = (getattr(network, 'pretrained_cfg', None) or {}).get('classifier') or ()
    return [names] if isinstance(names, str) else list(names)


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, 'shape', ()))
