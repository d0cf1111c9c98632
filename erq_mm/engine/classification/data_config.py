"""How timm prepares the images of a model: size, crop, interpolation, mean and deviation, from its own tables."""

from typing import Any

import timm
from timm.data import resolve_data_config

from .model_names import check_model_name

CHANGES = ('img_size', 'input_size', 'interpolation', 'crop_pct', 'crop_mode', 'mean', 'std')


def data_config(model_name: str, **changes: Any) -> dict[str, Any]:
    """Return timm's data config of a model: input_size, interpolation, mean, std, crop_pct, crop_mode.

    Args:
        model_name: with or without the tag of pretrained weights (`deit_small_patch16_224.fb_in1k`).
        changes: values in the place of timm's, of `CHANGES`.

    Raises:
        ValueError: an unknown model, or another value than those.
    """
    unknown = sorted(set(changes) - set(CHANGES))
    if unknown:
        raise ValueError(f'the preprocessing of timm has no {unknown}; what can be changed is {list(CHANGES)}')
    check_model_name(model_name)
    pretrained = timm.get_pretrained_cfg(model_name)
    return resolve_data_config(changes, pretrained_cfg=pretrained.to_dict() if pretrained else {})


def normalisation(model_name: str) -> dict[str, Any]:
    """Return the config of mmpretrain's data preprocessor that normalises 8-bit RGB images as timm does.

    timm divides by 255 first; here mean and deviation are multiplied, which differs by rounding errors of float32.
    """
    values = data_config(model_name)
    scaled = {key: [255 * value for value in values[key]] for key in ('mean', 'std')}
    return dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=False, **scaled)
