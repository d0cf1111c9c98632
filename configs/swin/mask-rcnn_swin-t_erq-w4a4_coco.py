"""Mask R-CNN, Swin-T, ERQ W4A4. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 36.8 / 36.6 (scope `all`, float 46.0 / 41.6).

    python tools/test.py configs/swin/mask-rcnn_swin-t_erq-w4a4_coco.py CHECKPOINT
"""

_base_ = ['./mask-rcnn_swin-t_coco.py', '../_base_/recipes/erq.py']
default_hooks = dict(quantization=_base_.quantization)
