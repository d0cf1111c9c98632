"""The promises of the method on the trained detectors, layer by layer."""

from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

import erq_mm
from erq_mm.engine.calibration_data import CalibrationConfig, build_calibration_images
from erq_mm.engine.detector import DetectorTask
from erq_mm.engine.evaluation import load_config

from ..conftest import ROOT

NAMES = ['mask-rcnn_swin-mini', 'cascade-mask-rcnn_swin-mini']


def load(name: str, data: Path) -> tuple[nn.Module, list[dict]]:
    config = load_config(str(ROOT / f'configs/shapes/{name}_shapes.py'))
    for loader in (config.train_dataloader, config.test_dataloader):
        loader.dataset.data_root = f'{data}/'
    init_default_scope('mmdet')
    model = MODELS.build(config.model)
    checkpoint = torch.load(ROOT / f'configs/shapes/checkpoints/{name}.pth', weights_only=True)
    model.load_state_dict(checkpoint['state_dict'])
    return model, build_calibration_images(config, CalibrationConfig(num_images=2)).samples


@pytest.mark.parametrize(
    ('name', 'scope'),
    [
        (NAMES[0], 'linears'),
        (NAMES[0], 'all'),
        *(pytest.param(NAMES[1], scope, marks=pytest.mark.slow) for scope in ('linears', 'all')),
    ],
)
def test_aqer_never_raises_and_wqer_beats_nearest_in_95_percent(name: str, scope: str, tiny_shapes: Path) -> None:
    reports = []
    for recipe in ('erq', {'type': 'erq', 'ridge': False, 'rounding': None}):
        model, images = load(name, tiny_shapes)
        run = DetectorTask(images, with_masks=scope == 'all')
        reports.append(erq_mm.quantize_(model, run, recipe, 4, 4, scope))
    with_rows = [(a, b) for a, b in zip(reports[0].layers, reports[1].layers, strict=True) if a.rows]
    assert len(with_rows) == sum(layer.kind != 'matmul' for layer in reports[0].layers)
    for layer, _ in with_rows:
        if 'aqer' in layer.output_mse:
            assert layer.output_mse['aqer'] <= layer.output_mse['activation'] * (1 + 1e-5), layer.name
    better = [erq.output_mse['wqer'] < nearest.output_mse['fit_weights'] for erq, nearest in with_rows]
    assert sum(better) >= 0.95 * len(better)


@pytest.mark.parametrize('name', [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_memory_of_calibration_holds_no_activations(name: str, tiny_shapes: Path, monkeypatch) -> None:
    """What is kept of 2 images is what is kept of 1: sums, counts and samples of fixed size."""
    from erq_mm.calibration import pipeline

    sizes = []

    def measure(state: object) -> None:
        tensors = [t for t in vars(state.stats).values() if isinstance(t, torch.Tensor)] if state.stats else []
        sizes[-1] += sum(t.numel() for t in tensors) + sum(h.counts.numel() for h in state.histograms)

    begin = pipeline._begin
    monkeypatch.setattr(pipeline, '_begin', lambda state: (measure(state), begin(state)))
    for count in (1, 2):
        sizes.append(0)
        model, images = load(name, tiny_shapes)
        erq_mm.quantize_(model, DetectorTask(images[:count], False), 'erq')
    assert sizes[0] == sizes[1]
