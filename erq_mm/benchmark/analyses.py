"""Cells that look into a model instead of evaluating it: operations, distributions, proxy."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from torch import nn

from ..analysis.distributions import QUANTILES, channel_quantiles, range_spread
from ..analysis.operations import count_macs
from ..analysis.proxy import compare_proxy
from ..analysis.recording import record_inputs
from ..calibration.pipeline import quantize_
from ..engine.calibration_data import CalibrationConfig, build_calibration_images
from ..engine.model_kinds import kind_of_config
from ..nn.structure import find_sites
from .cells import Cell
from .detectors import Detector

OTHER_IMAGES = 8
TRIALS = 400
INPUTS = {'qkv': ('qkv',), 'fc1': ('ffn.layers.0.0', 'mlp.fc1'), 'patch merging': ('reduction',)}  # ends of names
Outcome = tuple[dict[str, Any], dict[str, np.ndarray]]


def load_detector(detector: Detector) -> tuple[Config, nn.Module]:
    """Return the config and the float model, in eval mode, on the device that an evaluation would take."""
    config = detector.load_config()
    return config, kind_of_config(config).init_model(config, detector.checkpoint, get_device())


def run_operations(cell: Cell) -> Outcome:
    """Count the multiply-accumulates of a whole prediction of one test image."""
    config, model = load_detector(cell.detector)
    (image,) = build_calibration_images(config, CalibrationConfig(split='test', seed=cell.seed)).samples
    predictions = []
    macs = count_macs(model, lambda detector: predictions.extend(detector.test_step(pseudo_collate([image]))))
    height, width = image['data_samples'].img_shape[:2]
    found = predictions[0].get('pred_instances')
    detections = {} if found is None else {'detections': len(found)}
    return {'macs': macs, 'image': {'height': height, 'width': width} | detections}, {}


def run_distributions(cell: Cell) -> Outcome:
    """Record inputs behind LayerNorms before and after RepQ-ViT's reparameterization (at 8 bits)."""
    config, model = load_detector(cell.detector)
    forward = _forward(config, CalibrationConfig(num_images=cell.images, seed=cell.seed))
    names = _middle_layers(model)
    rows = {'before': record_inputs(model, list(names.values()), forward)}
    quantize_(model, forward, 'repq', w_bits=8, a_bits=8, seed=cell.seed)
    rows['after'] = record_inputs(model, list(names.values()), forward)
    arrays, spread = {}, {}
    for when, recorded in rows.items():
        for title, name in names.items():
            quantiles = channel_quantiles(recorded[name])
            arrays[f'{title}|{when}'] = quantiles.cpu().numpy()
            spread[f'{title}|{when}'] = range_spread(quantiles)
    return {'layers': names, 'quantiles': QUANTILES, 'range_spread': spread}, arrays


def run_proxy(cell: Cell) -> Outcome:
    """Compare the rounding proxy with the true error, on the calibration images and on others."""
    config, model = load_detector(cell.detector)
    forward = _forward(config, CalibrationConfig(num_images=cell.images, seed=cell.seed))
    other = _forward(config, CalibrationConfig(num_images=OTHER_IMAGES, split='test', seed=cell.seed))
    names = _middle_layers(model)
    # Weights at 8 bits stand in for float weights after reparameterization; inputs are at the bits of the cell
    quantized = copy.deepcopy(model)
    quantize_(quantized, forward, 'repq', w_bits=8, a_bits=cell.a_bits, seed=cell.seed)
    calibration, others = (_quantized_inputs(quantized, names, run) for run in (forward, other))
    arrays = {}
    for title, name in names.items():
        weight = quantized.get_submodule(name).weight_matrix()
        trials = compare_proxy(weight, calibration[title], others[title], cell.w_bits, TRIALS, cell.seed)
        for field in ('proxy', 'calibration_error', 'other_error'):
            arrays[f'{title}|{field}'] = getattr(trials, field).cpu().numpy()
    return {'layers': names, 'bits': [cell.w_bits, cell.a_bits], 'other_images': OTHER_IMAGES}, arrays


def _quantized_inputs(
    model: nn.Module, names: dict[str, str], run: Callable[[nn.Module], Any]
) -> dict[str, torch.Tensor]:
    rows = record_inputs(model, list(names.values()), run)
    return {t: model.get_submodule(name).input_quantizer.fake_quantize(rows[name]) for t, name in names.items()}


def _forward(config: Config, calibration: CalibrationConfig) -> Callable[[nn.Module], None]:
    images = build_calibration_images(config, calibration).samples
    return kind_of_config(config).task(images, 'linears', set())


def _middle_layers(model: nn.Module) -> dict[str, str]:
    """Return title -> the middle layer of every kind that follows a LayerNorm.

    Raises:
        ValueError: the model has none.
    """
    sites = [site.name for site in find_sites(model, 'linears')[0] if site.norm is not None]
    found = {title: [name for name in sites if name.endswith(endings)] for title, endings in INPUTS.items()}
    names = {title: names[len(names) // 2] for title, names in found.items() if names}
    if not names:
        raise ValueError(f'{type(model).__name__} has no linear layer behind a LayerNorm to analyse')
    return names


ANALYSES: dict[str, Callable[[Cell], Outcome]] = {
    'operations': run_operations,
    'distributions': run_distributions,
    'proxy': run_proxy,
}
