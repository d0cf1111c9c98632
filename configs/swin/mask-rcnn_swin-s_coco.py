"""Mask R-CNN, Swin-S, 3x multi-scale: mmdet's own config, float. mmdet's model zoo: 48.2 box AP / 43.2 mask AP.

Checkpoint: https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth
The published quantization tables use the Swin release's weights instead (48.5 / 43.3): compare drops, not absolute AP.
"""  # noqa: E501

_base_ = 'mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py'
