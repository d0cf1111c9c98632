"""Mask R-CNN, Swin-T, 3x multi-scale: mmdet's own config, float. mmdet's model zoo: 46.0 box AP / 41.6 mask AP.

Checkpoint: https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco_20210906_131725-bacf6f7b.pth
"""  # noqa: E501

_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py'
