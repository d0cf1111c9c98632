"""Real COCO images through tools/test.py's own code: calibration on train2017, evaluation on val2017."""

import json
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from erq_mm.engine.evaluation import build_parser, build_runner, load_config

from ..conftest import ROOT

SMALL = [
    'model.backbone.embed_dims=24',
    'model.neck.in_channels=[24,48,96,192]',
    'model.test_cfg.rpn.max_per_img=50',
    'model.test_cfg.rcnn.score_thr=0.0',
    'model.test_cfg.rcnn.max_per_img=3',
    'test_dataloader.dataset.pipeline.1.scale=(333,200)',
]
HEADS = {
    'mask-rcnn': ['model.roi_head.bbox_head.fc_out_channels=32'],
    'cascade-mask-rcnn': [f'model.roi_head.bbox_head.{stage}.fc_out_channels=32' for stage in range(3)],
}


def evaluate(tmp_path: Path, config: str, options: list[str], arguments: list[str]) -> tuple[dict, dict]:
    cfg = load_config(config)
    init_default_scope('mmdet')
    pairs = dict(option.split('=', 1) for option in options if option.startswith('model.'))
    cfg.merge_from_dict({key: json.loads(value.replace('(', '[').replace(')', ']')) for key, value in pairs.items()})
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'random.pth')
    line = [config, str(tmp_path / 'random.pth'), '--work-dir', str(tmp_path / 'work'), *arguments]
    metrics = build_runner(build_parser().parse_args([*line, '--cfg-options', *options])).test()
    (report,) = (tmp_path / 'work').glob('*/quantization.json')
    return metrics, json.loads(report.read_text())


def data_options(fixture: Path, subset: Path) -> list[str]:
    return [
        f'train_dataloader.dataset.data_root={subset}/', f'val_dataloader.dataset.data_root={fixture}/',
        f'test_dataloader.dataset.data_root={fixture}/',
        f'test_evaluator.ann_file={fixture}/annotations/instances_val2017.json',
        'test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False',
    ]  # fmt: skip


@pytest.mark.parametrize('detector', ['mask-rcnn', pytest.param('cascade-mask-rcnn', marks=pytest.mark.slow)])
def test_small_detector_on_real_images(detector: str, coco_fixture, coco_subset, tmp_path) -> None:
    config = str(ROOT / f'configs/swin/{detector}_swin-t_erq-w4a4_coco.py')
    options = [*SMALL, *HEADS[detector], *data_options(coco_fixture, coco_subset)]
    metrics, report = evaluate(tmp_path, config, options, [])
    assert {'coco/bbox_mAP', 'coco/segm_mAP'} <= set(metrics)
    assert len(report['calibration']['image_ids']) == 1
    for layer in report['layers']:
        if layer['rows'] and layer['role'] != 'image':
            assert layer['output_mse']['aqer'] <= layer['output_mse']['activation'] * (1 + 1e-4), layer['name']


@pytest.mark.slow
def test_full_size_swin_t_on_real_images(coco_fixture, coco_subset, tmp_path) -> None:
    config = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py'
    metrics, report = evaluate(tmp_path, config, data_options(coco_fixture, coco_subset), ['--recipe', 'erq_w4a4'])
    assert 'coco/segm_mAP' in metrics
    assert sum(layer['kind'] == 'linear' for layer in report['layers']) == 55
    wide = next(layer for layer in report['layers'] if layer['name'] == 'roi_head.bbox_head.shared_fcs.0')
    assert wide['rows'] == 1000
