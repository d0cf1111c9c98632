"""Mask R-CNN with a small Swin on the generated shapes.

python tools/make_shapes.py
python tools/train.py configs/shapes/mask-rcnn_swin-mini_shapes.py      # about 45 minutes on one core
"""

_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    './_base_/shapes_instance.py',
    './_base_/swin_mini.py',
]
model = dict(
    backbone=_base_.backbone,
    neck=_base_.neck,
    rpn_head=_base_.rpn_head,
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=7),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28),
        mask_head=_base_.mask_head,
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
    test_cfg=dict(rpn=_base_.test_proposals),
)
