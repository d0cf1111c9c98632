"""Detectors in files: saved with all that is needed to build them again, and loaded without a config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..calibration.report import Report
from ..export.checkpoint import load_record, rebuild_, save_quantized
from ..export.sizes import SizeTable
from .saved_config import build_saved_detector, from_plain, to_plain


def save_detector(
    model: nn.Module, path: str | Path, report: Report, config: Config, dataset_meta: Mapping[str, Any]
) -> SizeTable:
    """Write a quantized detector with its config, report and class names; returns what everything takes.

    Raises:
        ValueError: as `export.save_quantized`, or an entry of the model's config that is no plain value.
    """
    meta = {str(key).lower(): value for key, value in dataset_meta.items() if _is_plain(value)}
    return save_quantized(model, path, report, to_plain(config), meta)


def load_detector(path: str | Path, device: str | torch.device) -> nn.Module:
    """Return the detector of a file, in eval mode, with `cfg` and `dataset_meta` as `init_detector` sets them.

    Raises:
        ValueError: a damaged file, one without a config, or a config that names unknown types.
    """
    record, tensors = load_record(path)
    if record.config is None:
        raise ValueError(f'{path} has no config, as it is no detector: pass model=, the float model it was made of')
    try:
        config = from_plain(record.config)
        model = build_saved_detector(config)
        model.load_state_dict(rebuild_(model, record, tensors))
    except ValueError as error:
        raise ValueError(f'{path} cannot be loaded: {error}') from error
    model.cfg, model.dataset_meta = config, record.dataset_meta
    return model.to(device).eval()


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
