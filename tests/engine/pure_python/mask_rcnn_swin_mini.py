"""The demo's Mask R-CNN in mmengine's pure-Python style: classes for types, and no default scope to find names in."""

from mmcv.ops import RoIAlign, nms
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.models.backbones import SwinTransformer
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import MaskRCNN
from mmdet.models.losses import CrossEntropyLoss, L1Loss
from mmdet.models.necks import FPN
from mmdet.models.roi_heads import FCNMaskHead, Shared2FCBBoxHead, SingleRoIExtractor, StandardRoIHead
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from mmengine.optim import OptimWrapper
from mmengine.runner import IterBasedTrainLoop, LogProcessor
from mmengine.visualization import LocalVisBackend
from torch.optim import AdamW

with read_base():
    from .shapes_data import *  # noqa: F403

default_scope = None
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=50),
    param_scheduler=dict(type=ParamSchedulerHook),
    checkpoint=dict(type=CheckpointHook, interval=1),
    sampler_seed=dict(type=DistSamplerSeedHook),
    visualization=dict(type=DetVisualizationHook),
)
visualizer = dict(type=DetLocalVisualizer, vis_backends=[dict(type=LocalVisBackend)], name='visualizer')
log_processor = dict(type=LogProcessor, window_size=50, by_epoch=True)
train_cfg = dict(type=IterBasedTrainLoop, max_iters=1800, val_interval=1800)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=8e-4))

coder = dict(type=DeltaXYWHBBoxCoder, target_means=[0.0, 0.0, 0.0, 0.0])
region_extractor = dict(type=SingleRoIExtractor, out_channels=64, featmap_strides=[4, 8, 16, 32], finest_scale=28)
region_loss = dict(type=CrossEntropyLoss, use_sigmoid=False, loss_weight=1.0)
model = dict(
    type=MaskRCNN,
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type=SwinTransformer, embed_dims=40, depths=(2, 2, 4, 2), num_heads=(2, 4, 8, 16), drop_path_rate=0.0
    ),
    neck=dict(type=FPN, in_channels=[40, 80, 160, 320], out_channels=64, num_outs=5),
    rpn_head=dict(
        type=RPNHead,
        in_channels=64,
        feat_channels=64,
        anchor_generator=dict(type=AnchorGenerator, scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
        bbox_coder=coder | dict(target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type=CrossEntropyLoss, use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type=L1Loss, loss_weight=1.0),
    ),
    roi_head=dict(
        type=StandardRoIHead,
        bbox_roi_extractor=region_extractor | dict(roi_layer=dict(type=RoIAlign, output_size=7, sampling_ratio=0)),
        bbox_head=dict(
            type=Shared2FCBBoxHead,
            in_channels=64,
            fc_out_channels=256,
            roi_feat_size=7,
            num_classes=7,
            bbox_coder=coder | dict(target_stds=[0.1, 0.1, 0.2, 0.2]),
            reg_class_agnostic=False,
            loss_cls=region_loss,
            loss_bbox=dict(type=L1Loss, loss_weight=1.0),
        ),
        mask_roi_extractor=region_extractor | dict(roi_layer=dict(type=RoIAlign, output_size=14, sampling_ratio=0)),
        mask_head=dict(
            type=FCNMaskHead,
            num_convs=4,
            in_channels=64,
            conv_out_channels=64,
            num_classes=7,
            loss_mask=dict(type=CrossEntropyLoss, use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3),
            sampler=dict(type=RandomSampler, num=256, pos_fraction=0.5, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=500, max_per_img=300, nms=dict(type=nms, iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(
            assigner=dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5),
            sampler=dict(type=RandomSampler, num=128, pos_fraction=0.25, add_gt_as_proposals=True),
            mask_size=28,
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=300, nms=dict(type=nms, iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type=nms, iou_threshold=0.5), max_per_img=100, mask_thr_binary=0.5),
    ),
)
