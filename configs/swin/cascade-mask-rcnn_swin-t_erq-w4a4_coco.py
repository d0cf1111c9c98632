"""Cascade Mask R-CNN, Swin-T, ERQ W4A4. COCO val2017 box AP / mask AP: not measured by us yet.

Published by the ERQ paper: 47.9 / 42.1 (scope `all`, float 50.4 / 43.7).

    python tools/test.py configs/swin/cascade-mask-rcnn_swin-t_erq-w4a4_coco.py CHECKPOINT
"""

_base_ = ['./cascade-mask-rcnn_swin-t_coco.py', '../_base_/recipes/erq.py']
default_hooks = dict(quantization=_base_.quantization)
