"""timm's own pretrained weights, from the network, as checkpoints of mmengine: `timm://MODEL[.TAG]`."""

from typing import Any

import timm
from mmengine.runner import CheckpointLoader
from torch import nn

from .model_names import check_model_name

SCHEME = 'timm://'


def create_pretrained(model_name: str, **settings: Any) -> nn.Module:
    """Return timm's model with its pretrained weights, which timm downloads and keeps.

    Raises:
        ValueError: an unknown model, or one without pretrained weights.
        ConnectionError: they cannot be fetched; names where they are.
    """
    check_model_name(model_name)
    config = timm.get_pretrained_cfg(model_name)
    if config is None or not config.has_weights:
        raise ValueError(f'timm has no pretrained weights of {model_name}: give a file, or another tag')
    try:
        return timm.create_model(model_name, pretrained=True, **settings)
    except Exception as error:  # of whatever client timm fetches with
        places = [f'https://huggingface.co/{config.hf_hub_id}'] if config.hf_hub_id else []
        places += [config.url] if config.url else []
        raise ConnectionError(
            f'the pretrained weights of {model_name} cannot be fetched ({type(error).__name__}: {error}); get them '
            f'where the network allows it, from {" or ".join(places)}, and give the file as the checkpoint'
        ) from error


def register_timm_scheme() -> None:
    """Let everything that loads a checkpoint take `timm://MODEL`."""

    def load(filename: str, map_location: Any = None) -> dict[str, Any]:
        return {'state_dict': create_pretrained(filename.removeprefix(SCHEME)).state_dict()}

    CheckpointLoader.register_scheme(SCHEME, load, force=True)
