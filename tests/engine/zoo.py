"""Small detectors of mmdet's own configs with a Swin backbone and random weights, on a few generated shapes."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import METRICS, MODELS
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from erq_mm.demo.shapes import CLASSES
from erq_mm.engine.evaluation import build_parser, build_runner

CHANNELS = (16, 32, 64, 128)
SMALLER = {256: 32, 1024: 64, 2048: 64, 80: len(CLASSES)}  # sizes in mmdet's configs -> here
AS_TWO_STAGE = ('dino', 'deformable-detr-two-stage')  # mmdet embeds their proposals in 256 channels, whatever is asked
SIZES = {
    'in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'fc_out_channels', 'embed_dims',
    'feedforward_channels', 'num_classes', 'num_things_classes', 'point_feat_channels', 'proposal_feature_channel',
}  # fmt: skip

# of the configs; mmengine lays out all of a config as text several times, which takes seconds
KEPT = ('model', 'default_scope', 'default_hooks', 'env_cfg', 'log_processor', 'train_cfg', 'optim_wrapper')

CONFIGS = {
    'faster-rcnn': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'retinanet': 'retinanet/retinanet_r50_fpn_1x_coco.py',
    'atss': 'atss/atss_r50_fpn_1x_coco.py',
    'rtmdet-ins': 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py',
    'dino': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'deformable-detr': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'deformable-detr-two-stage': 'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
    'mask2former': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'htc': 'htc/htc_r50_fpn_1x_coco.py',
    'panoptic-fpn': 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
    'mask-rcnn': 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'cascade-mask-rcnn': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'cascade-rpn': 'cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py',
    'double-head': 'double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
    'grid-rcnn': 'grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py',
    'mask-scoring': 'ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
    'point-rend': 'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
    'dynamic-rcnn': 'dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py',
    'sparse-rcnn': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'soft-teacher': 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
}


@METRICS.register_module(force=True)
class CountDetections(BaseMetric):
    """Number of images, of instances and of finite scores: random weights have no AP."""

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            scores = sample['pred_instances']['scores'] if 'pred_instances' in sample else torch.ones(0)
            self.results.append((len(scores), int(scores.isfinite().sum()), float(scores.sum())))

    def compute_metrics(self, results: list) -> dict[str, float]:
        found, finite, total = zip(*results, strict=True)
        return {'images': len(results), 'instances': sum(found), 'finite': sum(finite), 'score': sum(total)}


def small_config(name: str, data: Path, batch_size: int = 1, **backbone: Any) -> Config:
    """Return the config of `CONFIGS[name]`, small, on the generated set in `data`."""
    config = get_config(f'mmdet::{CONFIGS[name]}')
    model = config.model.detector if 'detector' in config.model else config.model
    _shrink(model, SMALLER | {256: 256} if name in AS_TWO_STAGE else SMALLER)
    _put_swin(model, backbone)
    _limit_outputs(model)
    model.data_preprocessor.pad_size_divisor = 32
    small = Config({key: config[key] for key in KEPT})
    _put_data(small, data, batch_size)
    small.custom_imports = dict(imports=['erq_mm.engine', 'tests.engine.zoo'])
    small.visualizer = dict(type='DetLocalVisualizer', vis_backends=[])
    return small


def small_runner(config: Config, folder: Path, *arguments: str, seed: int = 0) -> Runner:
    """Return the runner of tools/test.py for a config whose detector gets random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    init_default_scope('mmdet')
    torch.manual_seed(seed)
    model = MODELS.build(copy.deepcopy(config.model))
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, folder / 'random.pth')
    config.dump(folder / 'config.py')
    line = [str(folder / 'config.py'), str(folder / 'random.pth'), '--work-dir', str(folder / 'work'), *arguments]
    return build_runner(build_parser().parse_args(line))


def _shrink(config: Any, smaller: dict[int, int]) -> None:
    """Make every size of a model's config small, in place."""
    if isinstance(config, (list, tuple)):
        for entry in config:
            _shrink(entry, smaller)
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        if key in SIZES and isinstance(value, int):
            config[key] = smaller.get(value, value)
        elif key == 'num_feats':
            config[key] = smaller[256] // 2
        elif key == 'num_layers':
            config[key] = 1
        else:
            _shrink(value, smaller)


def _put_swin(model: ConfigDict, options: dict[str, Any]) -> None:
    stages = model.backbone.get('out_indices', (0, 1, 2, 3)) if model.type != 'RTMDet' else (1, 2, 3)
    model.backbone = ConfigDict(
        type='SwinTransformer', embed_dims=CHANNELS[0], depths=(1, 2, 1, 1), num_heads=(1, 2, 4, 8), window_size=7,
        out_indices=stages, **options,
    )  # fmt: skip
    if 'neck' in model:
        necks = model.neck if isinstance(model.neck, list) else [model.neck]
        necks[0].in_channels = [CHANNELS[stage] for stage in stages]
    if 'panoptic_head' in model:
        model.panoptic_head.in_channels = list(CHANNELS)


def _put_data(config: Config, data: Path, batch_size: int) -> None:
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(160, 128), keep_ratio=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
    ]
    for split, images in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        dataset = dict(
            type='CocoDataset', data_root=f'{data}/', ann_file=f'annotations/instances_{images}.json',
            data_prefix=dict(img=f'{images}/'), metainfo=dict(classes=CLASSES), pipeline=pipeline,
            test_mode=split != 'train',
        )  # fmt: skip
        loader = dict(batch_size=batch_size, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler'))
        loader['sampler']['shuffle'] = False
        config[f'{split}_dataloader'] = loader
    for split in ('val', 'test'):
        config[f'{split}_evaluator'] = dict(type='CountDetections')
        config[f'{split}_cfg'] = dict(type='ValLoop' if split == 'val' else 'TestLoop')


def _limit_outputs(model: ConfigDict) -> None:
    """Propose and detect little."""
    if model.test_cfg.get('rpn'):
        model.test_cfg.rpn.update(nms_pre=100, max_per_img=50)
    elif 'rpn_head' in model:
        model.rpn_head.num_proposals = 20
    else:
        model.test_cfg.max_per_img = model.test_cfg.max_per_image = 20
    if 'roi_head' in model:
        model.test_cfg.rcnn.max_per_img = 20
    if 'num_queries' in model:
        model.num_queries = 20
        model.bbox_head.embed_dims = model.encoder.layer_cfg.ffn_cfg.embed_dims
