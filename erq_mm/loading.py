"""`load_quantized`: a saved quantized model in one call."""

from pathlib import Path

import torch
from torch import nn

from .export.checkpoint import load_into_


def load_quantized(path: str | Path, device: str | torch.device = 'cpu', model: nn.Module | None = None) -> nn.Module:
    """Return the quantized model of a file of `tools/quantize.py`, `ERQHook(save=...)` or `save_quantized`.

    Args:
        path: `.safetensors` or `.pth`.
        device: where the model goes.
        model: the float model it was made of, with any weights; becomes the quantized one. None builds the detector
            of the config in the file, which needs mmdet; the result has `cfg` and `dataset_meta`, so that mmdet's
            `inference_detector` takes it.

    Raises:
        FileNotFoundError, ValueError: naming the file and what is wrong with it or with the model; no code of the file
            is run, and a given model stays as it is.
    """
    if model is not None:
        load_into_(model, path)
        return model.to(device).eval()
    import erq_mm.engine  # noqa: F401  the only part that needs mmdet

    from .engine.saved_detectors import load_detector

    return load_detector(path, device)
