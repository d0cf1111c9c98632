"""Configs as users write them, evaluated through tools/test.py's own code."""

import pickle
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from erq_mm.engine.console import summary
from erq_mm.engine.evaluation import build_parser, build_runner, load_config

from .conftest import CHECKPOINT, CONFIG

PURE_PYTHON = str(Path(__file__).parent / 'pure_python/mask_rcnn_swin_mini.py')
BOXES_ONLY = (
    'model.roi_head.mask_head=None',
    'model.roi_head.mask_roi_extractor=None',
    'test_evaluator.metric=bbox',
)


def test_a_pure_python_config_is_the_same_detector(make_runner, read_report) -> None:
    """Classes for types and no default scope, with --recipe and --cfg-options: metrics of the config with names."""
    options = ('default_hooks.quantization.w_bits=8', 'test_dataloader.dataset.pipeline.1.scale=(192,192)')
    named = make_runner('--recipe', 'rtn', options=options).test()
    runner = make_runner('--recipe', 'rtn', options=options, config=PURE_PYTHON)
    assert runner.test() == named
    (report,) = [hook.report for hook in runner.hooks if hasattr(hook, 'report')]
    assert (report.w_bits, report.calibration['image_ids']) == (8, [7])
    assert 'LoadAnnotations' in (Path(runner.work_dir) / 'mask_rcnn_swin_mini.py').read_text()


def test_test_time_augmentation_and_a_hook_by_class_in_a_pure_python_config(make_runner, tmp_path) -> None:
    for name in ('mask_rcnn_swin_mini.py', 'shapes_data.py'):
        text = (Path(PURE_PYTHON).parent / name).read_text()
        (tmp_path / name).write_text(text.replace('type=CocoDataset', "type='CocoDataset'"))
    (tmp_path / 'config.py').write_text("""
from erq_mm.engine import ERQHook
from mmdet.models.test_time_augs import DetTTAModel
from mmengine.config import read_base

with read_base():
    from .mask_rcnn_swin_mini import *

default_hooks.update(dict(quantization=dict(type=ERQHook, recipe='erq', a_bits=5)))
tta_model = dict(type=DetTTAModel, tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100))
""")
    runner = make_runner('--recipe', 'rtn_w8a8', '--tta', options=BOXES_ONLY, config=str(tmp_path / 'config.py'))
    assert runner.test()['coco/bbox_mAP'] > 0.3
    (report,) = [hook.report for hook in runner.hooks if hasattr(hook, 'report')]
    assert (report.recipe, report.w_bits, report.calibration['image_ids']) == ('rtn', 8, [7])


def demo_config(data: Path) -> Config:
    """Return the demo's config on a small set, read without worker processes."""
    config = load_config(CONFIG)
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.num_workers, loader.persistent_workers, loader.dataset.data_root = 0, False, f'{data}/'
    config.val_evaluator.ann_file = f'{data}/annotations/instances_val.json'
    return config


def test_several_training_and_test_sets_with_test_time_augmentation(tiny_shapes, tmp_path, read_report) -> None:
    config = demo_config(tiny_shapes)
    train, val = (config[f'{split}_dataloader'].dataset for split in ('train', 'val'))
    train_as_test = train | dict(pipeline=val.pipeline, test_mode=True)
    config.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[train, val])
    )
    config.test_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[val | dict(indices=1), train_as_test | dict(indices=2)]
    )
    metrics = [
        dict(type='CocoMetric', ann_file=f'{tiny_shapes}/annotations/instances_{split}.json', metric='bbox')
        for split in ('val', 'train')
    ]
    config.test_evaluator = dict(type='MultiDatasetsEvaluator', metrics=metrics, dataset_prefixes=['val', 'train'])
    config.model.roi_head.update(mask_head=None, mask_roi_extractor=None)
    config.dump(tmp_path / 'config.py')
    ids = ['instances_val.json:4', 'instances_train.json:4']
    line = [str(tmp_path / 'config.py'), CHECKPOINT, '--work-dir', str(tmp_path / 'work'), '--recipe', 'rtn_w8a8']
    line += ['--tta', '--out', str(tmp_path / 'out.pkl')]
    line += ['--cfg-options', f'default_hooks.quantization.calibration.image_ids={ids}'.replace(' ', '')]
    metrics = build_runner(build_parser().parse_args(line)).test()
    assert {'val/coco/bbox_mAP', 'train/coco/bbox_mAP'} <= set(metrics)
    assert read_report()['calibration']['image_ids'] == ids
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert [Path(p['img_path']).parent.name for p in predictions] == ['val', 'train', 'train']


def test_validation_without_a_test_loader_and_a_note_about_its_image(tiny_shapes, tmp_path) -> None:
    config = demo_config(tiny_shapes)
    config.test_dataloader = config.test_evaluator = config.test_cfg = None
    config.val_dataloader.dataset.pipeline[1] = dict(type='Resize', scale=(12, 12))
    config.load_from, config.work_dir = CHECKPOINT, str(tmp_path / 'work')
    config.default_hooks.quantization = dict(type='ERQHook', recipe='rtn')
    runner = Runner.from_cfg(config)
    runner.val()
    (report,) = [hook.report for hook in runner.hooks if hasattr(hook, 'report')]
    assert report.calibration == {'image_ids': [7], 'split': 'train'}
    degenerate = [note for note in report.notes if note.startswith('degenerate calibration (images [7])')]
    (note,) = (note for note in report.notes if note not in degenerate)
    assert note.startswith('calibration image 7 is tiny for the model')
    assert any('saw fewer than 16 rows' in line for line in degenerate)
    assert f'note: {note}' in summary(report)
