"""Detectors of `init_detector` and `DetInferencer`, which run no hooks, quantized as the evaluation quantizes them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.hooks import Hook
from torch import nn

from erq_mm.engine import quantize_detector_
from erq_mm.engine.backends import BACKENDS
from erq_mm.export.integer import IntegerLayer
from erq_mm.nn import QuantLayer

from .zoo import small_config, small_runner


class Keep(Hook):
    """Keep the predictions."""

    def __init__(self) -> None:
        self.samples: list[DetDataSample] = []

    def after_test_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.samples += outputs


@pytest.fixture(scope='module')
def evaluated(tiny_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[DetDataSample]]:
    """A folder with a config that has the hook and a checkpoint, and the predictions of tools/test.py."""
    folder = tmp_path_factory.mktemp('evaluated')
    config = small_config('faster-rcnn', tiny_shapes)
    quantization = dict(type='ERQHook', recipe='erq', w_bits=3, a_bits=5, calibration=dict(num_images=2))
    config.default_hooks.quantization = quantization
    runner = small_runner(config, folder)
    keep = Keep()
    runner.register_hook(keep)
    runner.test()
    return folder, keep.samples


def _files(folder: Path) -> tuple[str, str]:
    return str(folder / 'config.py'), str(folder / 'random.pth')


def _assert_equal(sample: DetDataSample, wanted: DetDataSample) -> None:
    for field in ('bboxes', 'scores', 'labels'):
        assert torch.equal(sample.pred_instances[field], wanted.pred_instances[field])


def test_init_detector(evaluated: tuple[Path, list[DetDataSample]]) -> None:
    folder, wanted = evaluated
    model = init_detector(*_files(folder), device='cpu')
    assert not any(isinstance(module, QuantLayer) for module in model.modules())
    report = quantize_detector_(model)
    assert (report.recipe, report.w_bits, report.a_bits) == ('erq', 3, 5)
    assert len(report.calibration['image_ids']) == 2
    for sample in wanted:
        _assert_equal(inference_detector(model, sample.img_path), sample)


def test_det_inferencer(evaluated: tuple[Path, list[DetDataSample]]) -> None:
    folder, wanted = evaluated
    config, weights = _files(folder)
    inferencer = DetInferencer(config, weights, device='cpu', show_progress=False)
    quantize_detector_(inferencer.model)
    result = inferencer([sample.img_path for sample in wanted], return_datasamples=True, no_save_vis=True)
    for sample, other in zip(result['predictions'], wanted, strict=True):
        _assert_equal(sample, other)


def test_init_detector_runs_as_integers(evaluated: tuple[Path, list[DetDataSample]]) -> None:
    """W3A5: codes clipped at 31; products of attention and exact pixels stay simulated, and are named."""
    folder, wanted = evaluated
    model = init_detector(*_files(folder), device='cpu')
    quantize_detector_(model)
    summary = BACKENDS['int8'](model, model.cfg)
    assert sum(isinstance(module, IntegerLayer) for module in model.modules()) > 10
    left = [name for name, module in model.named_modules() if isinstance(module, QuantLayer)]
    assert left == ['backbone.patch_embed.projection'] and left[0] in summary
    assert 'backbone.stages.0.blocks.0.attn.w_msa.query_key' in summary
    for sample in wanted:
        found = inference_detector(model, sample.img_path).pred_instances
        assert len(found.bboxes) and torch.isfinite(found.bboxes).all()


def test_settings_replace_those_of_the_config(evaluated: tuple[Path, list[DetDataSample]], tmp_path: Path) -> None:
    model = init_detector(*_files(evaluated[0]), device='cpu')
    report = quantize_detector_(model, recipe='rtn', w_bits=8, report=str(tmp_path / 'folder' / 'report.json'))
    assert (report.recipe, report.w_bits, report.a_bits) == ('rtn', 8, 5)
    assert json.loads((tmp_path / 'folder' / 'report.json').read_text())['recipe'] == 'rtn'


def test_what_is_missing_is_named(evaluated: tuple[Path, list[DetDataSample]], tmp_path: Path) -> None:
    model = init_detector(*_files(evaluated[0]), device='cpu')
    with pytest.raises(ValueError, match=r'Sequential has no `cfg` .* pass config='):
        quantize_detector_(nn.Sequential(nn.Linear(2, 2)))
    config = Config.fromfile(_files(evaluated[0])[0])
    config.default_hooks.pop('quantization')
    with pytest.raises(ValueError, match="no default_hooks.quantization: say how, e.g. recipe='erq'"):
        quantize_detector_(model, config)
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='choose another path'):
        quantize_detector_(model, report=str(tmp_path / 'file' / 'report.json'))
    assert not any(isinstance(module, QuantLayer) for module in model.modules())
    assert quantize_detector_(model, config, recipe='rtn', w_bits=4, a_bits=4).recipe == 'rtn'
    with pytest.raises(ValueError, match='the model is quantized already'):
        quantize_detector_(model)
