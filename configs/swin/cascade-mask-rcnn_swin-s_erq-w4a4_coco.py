"""Cascade Mask R-CNN, Swin-S, ERQ W4A4. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 50.0 / 43.6 (scope `all`, float 51.9 / 45.0).

    python tools/test.py configs/swin/cascade-mask-rcnn_swin-s_erq-w4a4_coco.py CHECKPOINT
"""

_base_ = ['./cascade-mask-rcnn_swin-s_coco.py', '../_base_/recipes/erq.py']
default_hooks = dict(quantization=_base_.quantization)
