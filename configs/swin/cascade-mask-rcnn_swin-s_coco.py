"""Cascade Mask R-CNN, Swin-S, 3x multi-scale, as in the Swin release: 51.9 box AP / 45.0 mask AP there.

wget https://github.com/SwinTransformer/storage/releases/download/v1.0.2/cascade_mask_rcnn_swin_small_patch4_window7.pth
python tools/convert_swin.py cascade_mask_rcnn_swin_small_patch4_window7.pth checkpoints/cascade_swin-s.pth
"""

_base_ = './cascade-mask-rcnn_swin-t_coco.py'
model = dict(backbone=dict(depths=[2, 2, 18, 2]))
