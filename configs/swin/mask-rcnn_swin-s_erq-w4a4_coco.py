"""Mask R-CNN, Swin-S, ERQ W4A4. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 43.4 / 40.7 (scope `all`, float 48.5 / 43.3).

    python tools/test.py configs/swin/mask-rcnn_swin-s_erq-w4a4_coco.py CHECKPOINT
"""

_base_ = ['./mask-rcnn_swin-s_coco.py', '../_base_/recipes/erq.py']
default_hooks = dict(quantization=_base_.quantization)
